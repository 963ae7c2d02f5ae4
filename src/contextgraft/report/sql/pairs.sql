-- Skills paired by sample: each prompt that both the graft (or a control) and its fine-tune answered, once. Answers of
-- several donors to one prompt are averaged first, so that n counts prompts. The same index in another file (another
-- recipe) is another prompt. `counts` is explained in pair_macros.sql.
WITH pairs AS (
    SELECT graft.role, graft.target, graft.rank, graft.scale, graft.task, graft.scoring, graft.split, graft.seed, graft.sample_index, graft.recipe,
           prompt_pair(graft.score, alone.score, any_value(alone.score)) AS pair
    FROM placed AS graft
    JOIN placed AS alone
        ON alone.role = 'alone' AND alone.target = graft.target AND same_question(alone, graft)
    WHERE graft.role NOT IN ('base', 'donor', 'alone', 'other') AND graft.suite = 'skill' AND graft.status = 'ok' AND alone.status = 'ok'
    GROUP BY ALL
)
SELECT role, target, rank, scale, task, scoring, split, pooled(counts, text) AS counts
FROM (
    SELECT role, target, rank, scale, task, coalesce(scoring, '') AS scoring, coalesce(split, '') AS split,
           concat_ws(' ', seed, sample_index, recipe) AS text, fourfold(pair) AS counts
    FROM pairs
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY ALL
