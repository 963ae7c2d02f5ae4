-- The smallest groups of samples that are right or wrong: how many samples of each status, and the sum of their scores,
-- which is the number of right answers unless an answer can be partly right. Perplexity, divergence and suites that the
-- report does not know are in perplexity.sql, divergence.sql and other_suites.sql.
SELECT role, target, rank, scale, donor,
       CASE WHEN role = 'base' THEN model_digest END AS base,
       suite, task, coalesce(kind, 'single') AS kind, coalesce(haystack, '') AS haystack, coalesce(scoring, '') AS scoring,
       distractors, length, depth, coalesce(split, '') AS split, coalesce(chat, 0) > 0 AS chat,
       count(*) FILTER (status = 'ok') AS n,
       CAST(coalesce(sum(score) FILTER (status = 'ok'), 0) AS DOUBLE) AS hits,
       count(*) FILTER (status = 'truncated') AS truncated,
       count(*) FILTER (status = 'skipped') AS skipped,
       count(*) FILTER (status = 'failed') AS failed,
       min(reason) FILTER (status <> 'ok') AS reason,
       min(prompt_tokens) AS shortest,
       max(prompt_tokens) AS longest
FROM placed
WHERE suite IN ('needle', 'ruler', 'skill')
GROUP BY ALL
ORDER BY ALL
