-- Needles of each graft and of theta only, paired by prompt with those of the fine-tune alone, over both splits. Otherwise
-- as in control_pairs.sql: answers of several donors to one prompt are averaged first.
WITH pairs AS (
    SELECT graft.role, graft.target, graft.rank, graft.scale, graft.task, graft.kind, graft.haystack, graft.distractors,
           graft.length, graft.depth, graft.seed, graft.document, graft.sample_index, graft.recipe,
           coalesce(graft.chat, 0) > 0 AS chat,
           prompt_pair(graft.score, alone.score, any_value(alone.score)) AS pair
    FROM placed AS graft
    JOIN placed AS alone
        ON alone.role = 'alone' AND alone.target = graft.target AND same_question(alone, graft) AND same_place(alone, graft)
    WHERE graft.suite = 'needle' AND (graft.role = 'theta' OR (graft.role = 'graft' AND graft.scale = 1))
      AND graft.status = 'ok' AND alone.status = 'ok'
    GROUP BY ALL
)
SELECT role, target, rank, scale, task, kind, haystack, distractors, length, chat, pooled(counts, text) AS counts
FROM (
    SELECT role, target, rank, scale, task, coalesce(kind, 'single') AS kind, coalesce(haystack, '') AS haystack,
           coalesce(distractors, 0) AS distractors, length, chat,
           CASE WHEN document IS NOT NULL THEN concat_ws(' ', seed, document)
                ELSE concat_ws(' ', seed, sample_index, depth, recipe) END AS text,
           fourfold(pair) AS counts
    FROM pairs
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY ALL
