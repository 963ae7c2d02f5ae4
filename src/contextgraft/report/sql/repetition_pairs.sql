-- Long answers of the suite repetition, each of a graft (or a control) paired with that of its fine-tune to the same prompt.
-- Otherwise as in pairs.sql: answers of several donors to one prompt are averaged first, so that n counts prompts.
-- `deviation` is the standard deviation of the differences among prompts.
WITH pairs AS (
    SELECT graft.role, graft.target, graft.rank, graft.scale, graft.task, graft.length, graft.scoring, graft.seed, graft.sample_index, graft.recipe,
           prompt_pair(graft.score, alone.score, any_value(alone.score)) AS pair
    FROM placed AS graft
    JOIN placed AS alone
        ON alone.role = 'alone' AND alone.target = graft.target AND alone.suite = graft.suite AND alone.task = graft.task
       AND alone.scoring IS NOT DISTINCT FROM graft.scoring AND alone.length IS NOT DISTINCT FROM graft.length
       AND alone.seed IS NOT DISTINCT FROM graft.seed AND alone.sample_index = graft.sample_index
       AND alone.recipe IS NOT DISTINCT FROM graft.recipe AND alone.prompt_digest IS NOT DISTINCT FROM graft.prompt_digest
    WHERE graft.role NOT IN ('base', 'donor', 'alone', 'other') AND graft.suite = 'repetition' AND graft.status = 'ok' AND alone.status = 'ok'
    GROUP BY ALL
)
SELECT role, target, rank, scale, task, length, scoring, pooled(counts, text) AS counts,
       coalesce(stddev_samp(counts.gained - counts.lost), 0) AS deviation
FROM (
    SELECT role, target, rank, scale, task, length, coalesce(scoring, '') AS scoring,
           concat_ws(' ', seed, sample_index, recipe) AS text, fourfold(pair) AS counts
    FROM pairs
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY ALL
