-- The files of every model's samples.
SELECT DISTINCT role, target, rank, scale, CASE WHEN role = 'base' THEN model_digest END AS base, file
FROM placed
ORDER BY ALL
