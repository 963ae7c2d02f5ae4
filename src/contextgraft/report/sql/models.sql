-- The role of each model digest. Roles come from the grafts' manifests, never from labels.
CREATE TABLE models AS
SELECT DISTINCT 'base' AS role, base_digest AS digest, NULL AS target FROM raw WHERE base_digest IS NOT NULL
UNION ALL
SELECT DISTINCT 'donor', donor_digest, NULL FROM raw WHERE donor_digest IS NOT NULL
UNION ALL
SELECT DISTINCT 'alone', target_digest, target_digest FROM raw WHERE target_digest IS NOT NULL
