-- The samples of each cell of the page, numbered from 1, wrong and unscored ones first, then by a digest of the sample, so
-- that a page that cannot hold all of them takes the first of each cell. `sample` is a row of `placed`.
CREATE TABLE cell_ranks AS
SELECT rowid AS sample,
       row_number() OVER (
           PARTITION BY role, target, CASE WHEN role = 'base' THEN model_digest END, rank, scale, suite, task, kind, haystack, length,
                        depth, chat
           ORDER BY status = 'ok' AND score = 1, md5(concat_ws('|', seed, sample_index, position, model_digest))
       ) AS rank_in_cell
FROM placed
