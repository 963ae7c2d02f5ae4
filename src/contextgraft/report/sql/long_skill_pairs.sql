-- Prompts of skills behind a long text (suite long_skill), each paired with the short prompt of the same line by the same
-- model. Otherwise as in pairs.sql: answers of several donors to one prompt are averaged first, so that n counts lines. Lines
-- are grouped by the text that they are behind.
WITH spec AS (
    SELECT *, CASE WHEN role = 'base' THEN model_digest END AS base,
           CASE WHEN json_valid(recipe) THEN json_extract_string(recipe, '$.sha256') END AS content
    FROM placed
    WHERE suite IN ('skill', 'long_skill') AND status = 'ok'
),
pairs AS (
    SELECT long.role, long.target, long.base, long.rank, long.scale, long.task, long.length, long.scoring, long.seed, long.sample_index, long.document,
           prompt_pair(long.score, short.score, avg(short.score)) AS pair
    FROM spec AS long
    JOIN spec AS short
        ON short.suite = 'skill' AND short.role = long.role AND short.model_digest = long.model_digest
       AND short.target IS NOT DISTINCT FROM long.target AND short.rank IS NOT DISTINCT FROM long.rank
       AND short.scale IS NOT DISTINCT FROM long.scale AND short.donor IS NOT DISTINCT FROM long.donor
       AND short.task = long.task AND short.scoring IS NOT DISTINCT FROM long.scoring
       AND short.seed IS NOT DISTINCT FROM long.seed AND short.sample_index = long.sample_index
       AND (coalesce(short.chat, 0) > 0) = (coalesce(long.chat, 0) > 0)
       AND short.content IS NOT DISTINCT FROM long.content AND short.answer IS NOT DISTINCT FROM long.answer
    WHERE long.suite = 'long_skill'
    GROUP BY ALL
)
SELECT role, target, base, rank, scale, task, length, scoring, pooled(counts, text) AS counts
FROM (
    SELECT role, target, base, rank, scale, task, length, coalesce(scoring, '') AS scoring,
           concat_ws(' ', seed, coalesce('text ' || document, sample_index :: VARCHAR)) AS text, fourfold(pair) AS counts
    FROM pairs
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY ALL
