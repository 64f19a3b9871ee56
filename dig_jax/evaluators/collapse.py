"""Collapse diagnostics: do the encoder's tokens still differ, and in how many directions?

    collapse/std              mean over channels of the spread of l2-normalised tokens, times
                              sqrt(D): 1 = spread over the whole sphere, 0 = all tokens equal (Chen
                              & He 2021, SimSiam, arXiv 2011.10566, section 4.1)
    collapse/position_share   share of the tokens' variance that their place in the crop explains,
                              whatever the crop shows: adjusted R^2 of the mean token of each place
                              (epsilon squared, Kelley 1935). Near 1 the encoder has learnt where,
                              not what: position codes solve the contrast of windows
    collapse/neighbour_share  mean squared distance of neighbouring frames over that of any two
                              frames of the batch (half of von Neumann's ratio, 1941). 1 = a frame
                              says no more of the next than of a stranger; 0 = all frames of a line
                              are alike, and a reader cannot tell where a letter ends
    collapse/effective_rank   exp of the entropy of the normalised singular values of the centred
                              tokens, between 1 and D (Roy & Vetterli 2007, "The effective rank",
                              definition 1)

All are taken over the tokens of real pixels only, of one batch of crops that is the same at every
evaluation.
"""

from __future__ import annotations

import jax
import numpy as np

from dig_jax import sharding
from dig_jax.data import pipeline, records


def spread(tokens: np.ndarray) -> float:
    """f[n, D] tokens -> mean channel deviation of the l2-normalised rows times sqrt(D), in [0,
    1].
    """
    tokens = np.asarray(tokens, np.float64)
    norms = np.linalg.norm(tokens, axis=1, keepdims=True)
    unit = tokens / np.maximum(norms, 1e-12)
    return float(unit.std(axis=0).mean() * np.sqrt(tokens.shape[1]))


def effective_rank(tokens: np.ndarray) -> float:
    """f[n, D] tokens -> exp(entropy(s / sum(s))), s the singular values of the centred tokens. 1.0
    where all are equal.

    Singular values as square roots of the eigenvalues of the D x D scatter matrix, in float64: n is
    large, D is not.
    """
    tokens = np.asarray(tokens, np.float64)
    centred = tokens - tokens.mean(axis=0)
    eigenvalues = np.linalg.eigvalsh(centred.T @ centred)
    # What rounding leaves of a zero eigenvalue would count D times as a small direction: cut it
    # off.
    floor = eigenvalues.max(initial=0.0) * len(eigenvalues) * np.finfo(np.float32).eps ** 2
    singular = np.sqrt(eigenvalues[eigenvalues > floor])
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def position_share(tokens: np.ndarray, place: np.ndarray) -> float:
    """f[n, D] tokens at places i[n] -> 1 - (variance around the mean of their place) / (variance
    around the mean of all), both unbiased. About 0 where places say nothing (it may fall below),
    0.0 where all tokens are equal."""
    tokens = np.asarray(tokens, np.float64)
    places, index, counts = np.unique(place, return_inverse=True, return_counts=True)
    sums = np.zeros((len(places), tokens.shape[1]))
    np.add.at(sums, index, tokens)
    within = np.square(tokens - (sums / counts[:, None])[index]).sum() / max(
        len(tokens) - len(places), 1
    )
    total = np.square(tokens - tokens.mean(axis=0)).sum() / max(len(tokens) - 1, 1)
    return float(1 - within / total) if total > 0 else 0.0


def neighbour_share(frames: np.ndarray, length: np.ndarray) -> float:
    """f[B, S, D] frames of lines with lengths i[B] -> mean squared distance of neighbours / that of
    any two frames (twice the variance). 0.0 where all frames are equal or no line has two."""
    frames = np.asarray(frames, np.float64)
    real = np.arange(frames.shape[1])[None] < np.asarray(length)[:, None]
    pairs = np.square(np.diff(frames, axis=1)).sum(-1)[real[:, 1:]]
    total = np.square(frames[real] - frames[real].mean(axis=0)).sum(-1).mean()
    return float(pairs.mean() / (2 * total)) if total > 0 and len(pairs) else 0.0


class Evaluator:
    """spec: records to look at (default: the training records). lines: size of the fixed batch of
    crops, on all devices.
    """

    def __init__(
        self,
        *,
        method,
        mesh,
        workdir,
        data,
        spec: str | None = None,
        lines: int = 128,
        seed: int = 0,
    ):
        del workdir
        crops = pipeline.pretrain(
            records.open_sets(spec or data["train"]),
            batch_size=lines + -lines % mesh.size,
            seed=seed,
            **sharding.host_shard(mesh).of_data(),
            **pipeline.options(data, pipeline.CROPS),
        )
        self.batch = sharding.to_global(crops[0][0], mesh)
        # Every host needs all tokens. `valid` goes through the same program, so that nothing is
        # compiled here.
        both = lambda params, batch: (method.encode(params, batch), batch["valid"])
        self.encode = jax.jit(both, out_shardings=sharding.everywhere(mesh))

    def run(self, state, step) -> dict[str, float]:
        del step
        encoded, valid = self.encode(state.params, self.batch)
        tokens = np.asarray(encoded["tokens"], np.float32)  # (B, N, D)
        length = np.where(np.asarray(valid), encoded["frame_length"], 0)
        # Reading order: the tokens of a line's real columns are its first ones, N / S of them a
        # column.
        real = length * (tokens.shape[1] // encoded["frames"].shape[1])
        shown = np.arange(tokens.shape[1])[None] < real[:, None]
        chosen, place = tokens[shown], np.nonzero(shown)[1]
        return {
            "collapse/std": spread(chosen),
            "collapse/effective_rank": effective_rank(chosen),
            "collapse/position_share": position_share(chosen, place),
            "collapse/neighbour_share": neighbour_share(encoded["frames"], length),
        }
