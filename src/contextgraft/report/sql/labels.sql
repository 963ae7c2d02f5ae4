-- Names of the models by role: what the evaluation called them, and what the grafts' manifests call them.
SELECT role, target, rank, scale, donor, model_digest AS digest,
       CASE WHEN role = 'base' THEN model_digest END AS base,
       min(model) AS label,
       min(target_name) AS target_name,
       min(donor_name) AS donor_name,
       count(*) AS samples
FROM placed
GROUP BY ALL
ORDER BY ALL
