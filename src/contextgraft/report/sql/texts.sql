-- Needles by text: how many questions of one text were answered, over all depths and donors, and the sum of their scores.
-- Samples without a number of their text are left out.
SELECT role, target, CASE WHEN role = 'base' THEN model_digest END AS base, rank, scale,
       task, coalesce(distractors, 0) AS distractors, coalesce(kind, 'single') AS kind, coalesce(haystack, '') AS haystack,
       coalesce(chat, 0) > 0 AS chat, length, seed, document,
       count(*) AS n,
       sum(score) AS hits
FROM placed
WHERE suite = 'needle' AND status = 'ok' AND document IS NOT NULL
GROUP BY ALL
ORDER BY ALL
