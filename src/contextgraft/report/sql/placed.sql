-- Every sample with its model's role. The same sample of the same model in the same role counts once: copies are not
-- evidence. Grafts of scale 0 differ from the fine-tune in theta only, whatever their donor and rank.
CREATE TABLE placed AS
WITH roled AS (
    SELECT CASE WHEN adapter_scale = 0 THEN 'theta' ELSE 'graft' END AS role,
           target_digest AS target,
           CASE WHEN adapter_scale = 0 THEN NULL ELSE adapter_rank END AS rank,
           adapter_scale AS scale,
           CASE WHEN adapter_scale = 0 THEN NULL ELSE donor_digest END AS donor,
           raw.*
    FROM raw
    WHERE target_digest IS NOT NULL AND suite <> 'refused'
    UNION ALL
    SELECT models.role, models.target, NULL, NULL,
           CASE WHEN models.role = 'donor' THEN raw.model_digest END,
           raw.*
    FROM raw JOIN models ON raw.model_digest = models.digest
    WHERE raw.target_digest IS NULL AND suite <> 'refused'
    UNION ALL
    -- models that no graft refers to: shown by themselves
    SELECT 'other', raw.model_digest, NULL, NULL, NULL, raw.*
    FROM raw
    WHERE raw.target_digest IS NULL AND suite <> 'refused' AND raw.model_digest NOT IN (SELECT digest FROM models)
)
SELECT *
FROM roled
QUALIFY row_number() OVER (
    PARTITION BY role, target, rank, scale, model_digest, suite, task, kind, haystack, scoring, length, depth,
                 distractors, document, seed, "index", position
    ORDER BY status <> 'ok', file, model
) = 1
