-- Every sample behind the cells. Where there are more than the page holds, `place` numbers those of one cell, wrong
-- and unscored ones first, then by a digest of the sample, so that the page may take the first of each.
SELECT role, target, rank, scale, CASE WHEN role = 'base' THEN model_digest END AS base, donor_name AS donor, model_digest AS digest,
       suite, task, CASE WHEN suite = 'needle' THEN coalesce(kind, 'single') ELSE kind END AS kind, haystack, length, depth,
       distractors, seed, "index", position, tokens, recipe, scoring,
       answer, output, score, agreement, status, reason,
       row_number() OVER (
           PARTITION BY role, target, base, rank, scale, suite, task, kind, haystack, length, depth
           ORDER BY status = 'ok' AND score = 1, md5(concat_ws('|', seed, "index", position, model_digest))
       ) AS place
FROM placed
ORDER BY list_position(['alone', 'theta', 'graft', 'base', 'donor', 'other'], role), target, base, rank, scale,
         list_position(['needle', 'skill', 'ruler', 'perplexity', 'divergence'], suite), task, kind, haystack, scoring, length, depth, distractors, seed, document, "index",
         position, model_digest
