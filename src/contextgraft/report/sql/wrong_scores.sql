-- One sample whose score does not fit its status or its suite, if there is one. Shares are from 0 to 1; nats are finite
-- and not below 0 (except for rounding where a model is compared with an equal one); scores of other suites are finite.
SELECT file, status, score
FROM raw
WHERE status IS NULL
   OR status NOT IN ('ok', 'truncated', 'skipped', 'failed')
   OR (status = 'ok') <> coalesce(
       CASE
           WHEN suite IN ('needle', 'ruler', 'skill') THEN score BETWEEN 0 AND 1
           WHEN suite IN ('perplexity', 'divergence') THEN isfinite(score) AND score > -1e-3
           ELSE isfinite(score)
       END,
       false
   )
ORDER BY file, suite, task, length, depth, seed, "index"
LIMIT 1
