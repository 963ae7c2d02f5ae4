-- Skills paired by sample: each prompt that both the graft (or a control) and its fine-tune answered, once. Answers of
-- several donors to one prompt are averaged first, so that n counts prompts. The same index in another file (another
-- recipe) is another prompt. `both` to `neither` are the cells of the fourfold table, as products of the scores where
-- answers can be partly right; wins, losses and ties count the pairs of all donors.
WITH pairs AS (
    SELECT graft.role, graft.target, graft.rank, graft.scale, graft.task, graft.scoring, graft.split, graft.seed, graft.sample_index, graft.recipe,
           avg(graft.score) AS after,
           any_value(alone.score) AS before,
           avg(graft.score * alone.score) AS "both",
           count(*) FILTER (graft.score > alone.score) AS wins,
           count(*) FILTER (graft.score < alone.score) AS losses,
           count(*) FILTER (graft.score = alone.score) AS ties
    FROM placed AS graft
    JOIN placed AS alone
        ON alone.role = 'alone' AND alone.target = graft.target AND alone.suite = graft.suite AND alone.task = graft.task
       AND alone.scoring IS NOT DISTINCT FROM graft.scoring
       AND alone.seed IS NOT DISTINCT FROM graft.seed AND alone.sample_index = graft.sample_index
       AND (coalesce(alone.chat, 0) > 0) = (coalesce(graft.chat, 0) > 0)
       AND alone.recipe IS NOT DISTINCT FROM graft.recipe AND alone.answer IS NOT DISTINCT FROM graft.answer
    WHERE graft.role NOT IN ('base', 'donor', 'alone', 'other') AND graft.suite = 'skill' AND graft.status = 'ok' AND alone.status = 'ok'
    GROUP BY ALL
)
SELECT role, target, rank, scale, task, coalesce(scoring, '') AS scoring, coalesce(split, '') AS split,
       count(*) AS n,
       sum("both") AS "both",
       sum(after - "both") AS gained,
       sum(before - "both") AS lost,
       sum(1 - after - before + "both") AS neither,
       CAST(sum(wins) AS BIGINT) AS wins,
       CAST(sum(losses) AS BIGINT) AS losses,
       CAST(sum(ties) AS BIGINT) AS ties
FROM pairs
GROUP BY ALL
ORDER BY ALL
