-- Needles and skills of each graft at scale 1, paired by prompt with every control row of its fine-tune and with the same
-- adapter at other scales. A control that depends on the donor is paired with the graft of its donor. Otherwise as in
-- pairs.sql: answers of several donors to one prompt are averaged first. Needles are grouped by the text that they share.
WITH pairs AS (
    SELECT graft.target, graft.rank, other.role AS other_role, other.rank AS other_rank, other.scale AS other_scale,
           graft.suite, graft.task, graft.kind, graft.haystack, graft.distractors, graft.length, graft.depth, graft.scoring,
           graft.split, graft.seed, graft.document, graft.sample_index, graft.recipe, coalesce(graft.chat, 0) > 0 AS chat,
           prompt_pair(graft.score, other.score, avg(other.score)) AS pair
    FROM placed AS graft
    JOIN placed AS other
        ON other.target = graft.target AND same_question(other, graft) AND same_place(other, graft)
       AND other.role NOT IN ('base', 'donor', 'alone', 'other')
       AND (other.role <> 'graft' OR (other.rank = graft.rank AND other.scale <> 1))
       AND (other.donor IS NULL OR other.donor = graft.donor)
    WHERE graft.role = 'graft' AND graft.scale = 1 AND graft.suite IN ('needle', 'skill')
      AND graft.status = 'ok' AND other.status = 'ok'
    GROUP BY ALL
)
SELECT target, rank, other_role, other_rank, other_scale, suite, task, kind, haystack, distractors, length, chat, scoring, split,
       pooled(counts, text) AS counts
FROM (
    SELECT target, rank, other_role, other_rank, other_scale, suite, task, coalesce(kind, 'single') AS kind,
           coalesce(haystack, '') AS haystack, distractors, length, chat, coalesce(scoring, '') AS scoring, coalesce(split, '') AS split,
           CASE WHEN suite = 'needle' AND document IS NOT NULL THEN concat_ws(' ', seed, document)
                ELSE concat_ws(' ', seed, sample_index, depth, recipe) END AS text,
           fourfold(pair) AS counts
    FROM pairs
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY ALL
