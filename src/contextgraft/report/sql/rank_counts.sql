-- How many cells of the page have a sample of each number.
SELECT rank_in_cell, count(*) AS samples
FROM cell_ranks
GROUP BY rank_in_cell
ORDER BY rank_in_cell
