-- Grafts that the report cannot tell apart, because fine-tune, donor, rank, scale and control are the same, but that are
-- different models: of other settings of the merge, of other adapters of one rank, or of several adapters. With the names
-- and files of two of them.
WITH grafts AS (
    SELECT role, target, rank, scale, donor_digest, model_digest, min(model) AS model, min(file) AS file
    FROM placed
    WHERE target_digest IS NOT NULL AND status = 'ok'
    GROUP BY ALL
)
SELECT arg_min(model, model_digest) AS model, arg_min(file, model_digest) AS file,
       arg_max(model, model_digest) AS other_model, arg_max(file, model_digest) AS other_file
FROM grafts
GROUP BY role, target, rank, scale, donor_digest
HAVING count(*) > 1
ORDER BY ALL
