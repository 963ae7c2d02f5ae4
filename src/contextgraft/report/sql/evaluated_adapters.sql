-- The fine-tune and the adapter of every graft at scale 1 that is not a control.
SELECT DISTINCT target_digest AS target, rank, adapter_digest AS adapter
FROM placed
WHERE role = 'graft' AND scale = 1
ORDER BY target, rank, adapter
