-- Every sample with its model's role. The same sample of the same model in the same role counts once: copies are not
-- evidence; a sample without an index is a copy of none. Two samples are the same only if their prompts are: the digests of
-- their tokens, or without digests what rebuilds them; digests of lm-eval's requests do not show the chat template. Grafts of scale 0 differ from the fine-tune in their config only,
-- whatever their donor and rank: they are theta only, or another control. `setting` is what decides scores of two suites and is
-- not in their prompts, which would be copies of each other without it; so are the reference and the expected answer.
CREATE TABLE placed AS
WITH numbered AS (
    SELECT *, row_number() OVER () AS number,
           CASE WHEN NOT coalesce(json_valid(recipe), false) THEN NULL
                WHEN suite = 'long_perplexity' THEN 'short ' || json_extract_string(recipe, '$.short')
                WHEN suite = 'repetition' THEN json_extract_string(recipe, '$.tokens') || ' tokens' END AS setting
    FROM raw
),
roled AS (
    SELECT CASE WHEN coalesce(control, 'theta_only') <> 'theta_only' THEN 'control ' || control
                WHEN control IS NOT NULL OR scale = 0 THEN 'theta' ELSE 'graft' END AS role,
           target_digest AS target,
           CASE WHEN scale = 0 THEN NULL ELSE rank END AS rank,
           scale,
           CASE WHEN scale = 0 THEN NULL ELSE donor_digest END AS donor,
           numbered.* EXCLUDE (role, rank, scale)
    FROM numbered
    WHERE target_digest IS NOT NULL AND suite <> 'refused'
    UNION ALL
    SELECT models.role, models.target, NULL, NULL,
           CASE WHEN models.role = 'donor' THEN numbered.model_digest END,
           numbered.* EXCLUDE (role, rank, scale)
    FROM numbered JOIN models ON numbered.model_digest = models.digest
    WHERE numbered.target_digest IS NULL AND suite <> 'refused'
    UNION ALL
    -- models that no graft refers to: shown by themselves
    SELECT 'other', numbered.model_digest, NULL, NULL, NULL, numbered.* EXCLUDE (role, rank, scale)
    FROM numbered
    WHERE numbered.target_digest IS NULL AND suite <> 'refused'
      AND numbered.model_digest NOT IN (SELECT digest FROM models)
)
SELECT * EXCLUDE (number)
FROM roled
QUALIFY row_number() OVER (
    PARTITION BY role, target, rank, scale, model_digest, suite, task, kind, haystack, scoring, length, depth,
                 distractors, document, seed, sample_index, position,
                 coalesce(chat, 0) > 0, coalesce(prompt_digest, recipe), setting, reference_digest, answer,
                 CASE WHEN sample_index IS NULL THEN number END
    ORDER BY status <> 'ok', file, model
) = 1
