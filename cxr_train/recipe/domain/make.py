"""From the recipe to its domain method."""

from cxr_data.core.errors import UsageError
from cxr_train.recipe.domain.coral import Coral
from cxr_train.recipe.domain.dann import Dann
from cxr_train.recipe.domain.groupdro import GroupDro
from cxr_train.recipe.domain.irm import Irm
from cxr_train.recipe.domain.method import BalancedSources, DomainMethod
from cxr_train.recipe.domain.mixstyle import MixStyle
from cxr_train.recipe.domain.settings import BALANCED, NONE, strength_of
from cxr_train.recipe.loss import FindingsObjective, Objective
from cxr_train.recipe.recipe import Recipe


def make_domain_method(
    recipe: Recipe,
    sources: BalancedSources | None,
    objective: Objective | FindingsObjective,
    *,
    features: int,
    rate: float,
    steps: int = 0,
) -> DomainMethod | None:
    """Return the recipe's domain method, made under the strategy's scope; None for `none`.

    At strength 0 each is group-balanced ERM.

    Args:
      recipe: of the run.
      sources: of its batches; None where they are not balanced.
      objective: what is minimised without the method.
      features: number of features that the pooling layer gives.
      rate: the head's peak learning rate.
      steps: of the whole run; see `Dann`.

    Raises:
      UsageError: the batches are not balanced, or there is only one source.
    """
    method = recipe.domain_method
    if method == NONE:
        return None
    if sources is None:
        raise UsageError(f"--domain_method={method}: needs the sources of each batch; add --balance_batches")
    strength = strength_of(method, recipe.domain_strength)
    if method == BALANCED or strength == 0:
        return DomainMethod(sources, objective)
    if len(sources.numbers) < 2:
        raise UsageError(
            f"--domain_method={method}: needs images of at least two sources, and --train_split has one; "
            f"train on more, or choose --domain_method={BALANCED}"
        )
    match method:
        case "coral":
            return Coral(sources, objective, strength)
        case "dann":
            return Dann(sources, objective, strength, features=features, rate=rate, steps=steps)
        case "groupdro":
            return GroupDro(sources, objective, strength)
        case "irm":
            return Irm(sources, objective, strength, recipe.domain_warmup_steps)
        case "mixstyle":
            return MixStyle(sources, objective, strength)
    raise AssertionError(method)
