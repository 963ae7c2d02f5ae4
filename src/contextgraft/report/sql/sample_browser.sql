-- Every sample behind the cells of the page. `rank_in_cell` numbers the samples of one cell from 1, wrong and unscored ones
-- first, then by a digest of the sample, so that a page that cannot hold all of them takes the first of each cell.
SELECT role, target, rank, scale, CASE WHEN role = 'base' THEN model_digest END AS base, donor_name AS donor, model_digest AS digest,
       suite, task, CASE WHEN suite = 'needle' THEN coalesce(kind, 'single') ELSE kind END AS kind, haystack, length, depth,
       distractors, CAST(coalesce(chat, 0) > 0 AS INTEGER) AS chat, seed, sample_index AS "index", position, tokens, recipe, scoring,
       left(answer, 1000) AS answer, left(output, 1000) AS output, score, agreement, status, left(reason, 1000) AS reason,
       row_number() OVER (
           PARTITION BY role, target, base, rank, scale, suite, task, kind, haystack, length, depth, chat
           ORDER BY status = 'ok' AND score = 1, md5(concat_ws('|', seed, sample_index, position, model_digest))
       ) AS rank_in_cell
FROM placed
ORDER BY list_position(['alone', 'theta', 'graft', 'base', 'donor', 'other'], role), target, base, rank, scale,
         list_position(['needle', 'skill', 'ruler', 'perplexity', 'divergence'], suite), task, kind, haystack, scoring, length, depth, distractors, seed, document, sample_index,
         position, model_digest
