"""Scaling laws: the loss of a size and an amount of data, and the size and amount that a budget is
best spent on.

Five constants say all. They were fitted to one family of models on one data set and one recipe, so
what they give is a plan, not a promise: another tokenizer or corpus has another loss, and no such
law tells good data from bad. It expects 2.05 of LLaMA-13B (10^12 tokens) and 2.01 of GPT-3 (175B
parameters, 3 x 10^11 tokens) with Epoch's constants, yet LLaMA-13B is the better model: that win is
data and recipe. To fit constants to runs of your own: `fit.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from types import MappingProxyType

from scipy.optimize import brentq

from puna.errors import PlanError
from puna.plan.cost import Training, check_positive


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta: nats per token of N parameters that are shown D
    tokens once.

    E is what no model of this kind gets below, the entropy of the text; A / N^alpha is what too few
    parameters cost, B / D^beta what too few tokens cost. alpha and beta are positive.

    Source: Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, section 3.3. Usual
    mistake: rounding alpha and beta. In exp(alpha ln N), two digits of alpha shift A / N^alpha by
    several per cent.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, training: Training) -> float:
        """The loss that the law expects of this model."""
        return float(
            self.E + self.A / training.parameters**self.alpha + self.B / training.tokens**self.beta
        )

    @property
    def exponents(self) -> tuple[float, float]:
        """(a, b) of the compute optimum: N grows like C^a and D like C^b, with a = beta / (alpha +
        beta) and b = 1 - a.
        """
        a = self.beta / (self.alpha + self.beta)
        return a, 1 - a

    def tokens_for(self, loss: float, parameters: float) -> float:
        """D at which N parameters reach the loss: (B / (L - E - A / N^alpha))^(1 / beta). PlanError
        where no amount of data does it.
        """
        gap = self._reach(loss) - self.A / parameters**self.alpha
        if gap <= 0:
            fewest = (self.A / self._reach(loss)) ** (1 / self.alpha)
            raise PlanError(
                f"{parameters:.3g} parameters reach the loss {loss:g} with no amount of data; it"
                f" takes more than {fewest:.3g} parameters"
            )
        return float((self.B / gap) ** (1 / self.beta))

    def compute_optimum(self, flops: float) -> Training:
        """The lowest loss for C = 6 N D training FLOPs, in closed form:

        N = G (C / 6)^a, D = (C / 6)^b / G, with G = (alpha A / (beta B))^(1 / (alpha + beta)) and
        (a, b) = `exponents`.

        Source: Hoffmann et al. 2022, equation 4.
        """
        check_positive(flops=flops)
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = scale * (flops / 6) ** self.exponents[0]
        return Training(parameters, flops / 6 / parameters)

    def cheapest_at(self, loss: float) -> Training:
        """The least training FLOPs for a loss, in closed form: alpha A / N^alpha = beta B / D^beta
        shares L - E out as beta : alpha.
        """
        a, b = self.exponents
        reach = self._reach(loss)
        return Training(
            (self.A / (a * reach)) ** (1 / self.alpha), (self.B / (b * reach)) ** (1 / self.beta)
        )

    def lifetime_optimum(self, loss: float, inference_tokens: float) -> Training:
        """The least 6 N D + 2 N D_inference FLOPs for a loss: smaller than `cheapest_at`, and
        trained for longer.

        With u = A / N^alpha and v = B / D^beta, u + v = L - E, the derivative of the cost along
        that line vanishes where

            D x = D_inference / 3, with x = alpha u / (beta v) - 1.

        x is 0 at `cheapest_at`, where D is least; D grows with x, so there is one root, found to
        the last digits.

        Source: Sardana et al. 2024, Beyond Chinchilla-Optimal, section 2 (problem 2, solved
        numerically there too).
        """
        if inference_tokens == 0:
            return self.cheapest_at(loss)
        check_positive(inference_tokens=inference_tokens)
        reach = self._reach(loss)

        def split(log_x: float) -> tuple[float, float]:
            ratio = self.beta / self.alpha * (1 + exp(log_x))  # u / v
            return reach * ratio / (1 + ratio), reach / (1 + ratio)

        def log_tokens(log_x: float) -> float:
            return (log(self.B) - log(split(log_x)[1])) / self.beta

        wanted = log(inference_tokens / 3)
        high = wanted - log(self.cheapest_at(loss).tokens)
        low = wanted - log_tokens(high)
        log_x = brentq(
            lambda log_x: log_tokens(log_x) + log_x - wanted,
            low - 1e-9,
            high + 1e-9,
            xtol=1e-13,
            rtol=1e-14,
        )
        u, v = split(log_x)
        return Training((self.A / u) ** (1 / self.alpha), (self.B / v) ** (1 / self.beta))

    def _reach(self, loss: float) -> float:
        """L - E, the part of a loss that parameters and tokens can buy."""
        check_positive(loss=loss)
        if loss <= self.E:
            raise PlanError(
                f"the loss {loss:g} is unreachable: by these constants no model gets below E ="
                f" {self.E:g}; ask for more"
            )
        if loss >= self.E + self.A + self.B:
            raise PlanError(
                f"the loss {loss:g} is no plan: one parameter that is shown one token reaches it by"
                " these constants; ask for less"
            )
        return loss - self.E


LAWS: Mapping[str, ScalingLaw] = MappingProxyType(
    {
        # Hoffmann et al. 2022, section 3.3, as printed
        "hoffmann": ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
        # the same before rounding, from comments in the paper's TeX source; pointed out by
        # Besiroglu et al. 2024
        "hoffmann-unrounded": ScalingLaw(
            E=exp(0.5267228), A=exp(6.0073404), B=exp(6.0179186), alpha=0.33917084, beta=0.2849083
        ),
        # Besiroglu et al. 2024, Chinchilla Scaling: A replication attempt (Epoch AI): refitted to
        # points read off Hoffmann's figure 4
        "epoch": ScalingLaw(E=1.81686, A=482.00572, B=2085.43420, alpha=0.34781, beta=0.36585),
        # Sardana et al. 2024, section 2: Hoffmann's with the exponents to one more digit
        "sardana": ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283),
    }
)


def named_law(name: str) -> ScalingLaw:
    """The constants of this name. Raises PlanError that lists the names."""
    if name not in LAWS:
        raise PlanError(f"unknown constants {name!r}; the known ones are {', '.join(LAWS)}")
    return LAWS[name]
