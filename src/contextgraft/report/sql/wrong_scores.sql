-- One sample whose score contradicts its status or its suite, if there is any: shares lie between 0 and 1, nats are
-- finite and not below 0 (but for the rounding of a divergence between equals).
SELECT file, status, score
FROM raw
WHERE status IS NULL
   OR status NOT IN ('ok', 'truncated', 'skipped', 'failed')
   OR (status = 'ok') <> coalesce(
       CASE WHEN suite IN ('perplexity', 'divergence') THEN isfinite(score) AND score > -1e-3 ELSE score BETWEEN 0 AND 1 END,
       false
   )
ORDER BY file, suite, task, length, depth, seed, "index"
LIMIT 1
