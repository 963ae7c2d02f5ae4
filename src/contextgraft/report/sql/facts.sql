-- The finest cells of the page: how many samples of each status, how many right.
SELECT role, target, rank, scale, donor,
       CASE WHEN role = 'base' THEN model_digest END AS base,
       suite, task, distractors, length, depth,
       count(*) FILTER (status = 'ok') AS n,
       CAST(coalesce(sum(score) FILTER (status = 'ok'), 0) AS BIGINT) AS hits,
       count(*) FILTER (status = 'truncated') AS truncated,
       count(*) FILTER (status = 'skipped') AS skipped,
       count(*) FILTER (status = 'failed') AS failed,
       min(reason) FILTER (status <> 'ok') AS reason,
       min(prompt_tokens) AS shortest,
       max(prompt_tokens) AS longest
FROM placed
GROUP BY ALL
ORDER BY ALL
