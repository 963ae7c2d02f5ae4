-- The samples behind the cells of the page: the first `per_cell` of every cell, or all of them if that is null.
SELECT role, target, rank, scale, CASE WHEN role = 'base' THEN model_digest END AS base, donor_name AS donor, model_digest AS digest,
       suite, task, CASE WHEN suite = 'needle' THEN coalesce(kind, 'single') ELSE kind END AS kind, haystack, length, depth,
       distractors, CAST(coalesce(chat, 0) > 0 AS INTEGER) AS chat, seed, sample_index AS "index", position, tokens, recipe, scoring,
       left(answer, 1000) AS answer, left(output, 1000) AS output, score, agreement, status, left(reason, 1000) AS reason,
       file, table_row
FROM placed JOIN cell_ranks ON placed.rowid = cell_ranks.sample
WHERE rank_in_cell <= coalesce(CAST($per_cell AS BIGINT), rank_in_cell)
ORDER BY list_position(['alone', 'theta', 'graft', 'base', 'donor', 'other'], role), target, base, rank, scale,
         list_position(['needle', 'skill', 'ruler', 'perplexity', 'divergence'], suite), task, kind, haystack, scoring, length, depth, distractors, seed, document, sample_index,
         position, model_digest
