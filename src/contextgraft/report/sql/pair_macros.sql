-- Two sides' scores of one prompt, a group of rows: `second` is the second side's mean, or its only score.
CREATE OR REPLACE MACRO prompt_pair(a, b, second) AS {
    'after': avg(a),
    'before': second,
    'both': avg(a * b),
    'wins': count(*) FILTER (a > b),
    'losses': count(*) FILTER (a < b),
    'ties': count(*) FILTER (a = b)
};
-- The columns of PairCounts over a group of such pairs. `both` to `neither` are the cells of the fourfold table, as
-- products of the scores where answers can be partly right; wins, losses and ties count the pairs of all donors.
CREATE OR REPLACE MACRO fourfold(pair) AS {
    'n': count(*),
    'both': sum(pair."both"),
    'gained': sum(pair.after - pair."both"),
    'lost': sum(pair.before - pair."both"),
    'neither': sum(1 - pair.after - pair.before + pair."both"),
    'wins': CAST(sum(pair.wins) AS BIGINT),
    'losses': CAST(sum(pair.losses) AS BIGINT),
    'ties': CAST(sum(pair.ties) AS BIGINT)
};
