"""Factors of a delta with the same singular values in random directions."""

import hashlib

import numpy as np

from contextgraft.adapter.compute.arrays import Floats


def generator_of(text: str) -> np.random.Generator:
    """A generator of random numbers that depends on nothing but the text."""
    seed = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(seed[:16], "little")))


def turned_columns(columns: Floats, generator: np.random.Generator) -> Floats:
    """A random matrix with the Gram matrix of the given one, [n, R].

    Of its QR decomposition Q becomes a random matrix with orthonormal columns. The product of two such
    factors has the singular values of the product of the originals.
    """
    triangular = np.linalg.qr(columns.astype(np.float64), mode="r")
    directions, _ = np.linalg.qr(generator.standard_normal((len(columns), len(triangular))))
    result: Floats = (directions @ triangular).astype(columns.dtype)
    return result


def turned_by_expert(columns: Floats, experts: list[slice], generator: np.random.Generator) -> Floats:
    """As `turned_columns`, for each expert's own columns."""
    result = np.empty_like(columns)
    for own in experts:
        result[:, own] = turned_columns(columns[:, own], generator)
    return result


def random_like(values: Floats, generator: np.random.Generator) -> Floats:
    """Random values of the same shape and norm."""
    drawn = generator.standard_normal(values.shape)
    norm = np.linalg.norm(drawn)
    return (drawn * (np.linalg.norm(values) / norm if norm else 0.0)).astype(values.dtype)
