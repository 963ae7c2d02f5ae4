-- One sample whose score contradicts its status, if there is any.
SELECT file, status, score
FROM raw
WHERE status IS NULL
   OR status NOT IN ('ok', 'truncated', 'skipped', 'failed')
   OR (status = 'ok') <> coalesce(score IN (0, 1), false)
ORDER BY file, suite, task, length, depth, seed, "index"
LIMIT 1
