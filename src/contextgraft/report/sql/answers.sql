-- A few answers of every row: up to two right, three wrong and one that was not scored, of the longest prompts
-- first, chosen by a digest of the sample so that depths mix and two runs choose alike.
SELECT role, target, rank, scale, CASE WHEN role = 'base' THEN model_digest END AS base, suite, task, length, depth, seed, "index", answer, output, status, reason,
       score = 1 AS "right"
FROM placed
QUALIFY row_number() OVER (
    PARTITION BY role, target, base, rank, scale, suite, status <> 'ok', score
    ORDER BY length DESC NULLS LAST, md5(concat_ws('|', task, depth, seed, "index", model_digest))
) <= CASE WHEN status <> 'ok' THEN 1 WHEN score = 1 THEN 2 ELSE 3 END
ORDER BY role, target, base, rank, scale, suite, score DESC NULLS LAST, length DESC,
         md5(concat_ws('|', task, depth, seed, "index", model_digest))
