-- Which tasks were evaluated, and with which versions of the software.
SELECT suite, task, distractors, seed, contextgraft, transformers, torch, lm_eval,
       count(*) AS samples,
       list(DISTINCT length ORDER BY length) AS lengths,
       list(DISTINCT depth ORDER BY depth) AS depths,
       min(recipe) AS recipe
FROM placed
GROUP BY ALL
ORDER BY ALL
