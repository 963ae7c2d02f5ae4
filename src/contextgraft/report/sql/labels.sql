-- Names of the models by role: the labels of the evaluation, and the names in the grafts' manifests.
SELECT role, target, rank, scale, donor, model_digest AS digest,
       CASE WHEN role = 'base' THEN model_digest END AS base,
       min(model) AS label,
       min(target_name) AS target_name,
       min(donor_name) AS donor_name,
       count(*) AS samples
FROM placed
GROUP BY ALL
ORDER BY ALL
