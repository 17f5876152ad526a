"""The model of a run: whole on each rank, or with its weights shared out over several (FSDP2).

Each of `shards` ranks keeps a part of every weight, gradient and optimizer state, cut along the
first axis; a block's weights are gathered before it computes, freed after, and gathered again for
its backward pass. Each of `replicas` such groups holds the model once (HSDP). Weights and sums of
gradients are float32; with bfloat16 products the blocks' weights are gathered in bfloat16, half the
bytes.

Source: Zhao et al. 2023, arXiv 2304.11277, PyTorch FSDP. Usual mistake: the mean of the gradients,
FSDP's default. Losses here are divided by the targets of all ranks, so that gradients are summed.
"""

from typing import cast

import torch
from torch import Tensor, nn

from puna.device import Precision
from puna.model.init import fill, init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.training.distributed import Ranks, is_sharded
from puna.training.parallel_layout import MeshShape, mesh_shape
from puna.training.recipe import Recipe


def build_model(
    recipe: Recipe, ranks: Ranks, device: torch.device, precision: Precision
) -> Transformer:
    """The recipe's model with the weights that its seed gives, the same for any number of ranks.
    Raises as `mesh_shape`.
    """
    found = mesh_shape(recipe, ranks.size)
    if found.shards == 1:
        model = build_transformer(recipe.model, device)
    else:
        model = build_transformer(recipe.model, "meta")
        _shard(model, found, device, precision)
        model.to_empty(device=device)
    init_weights(model, recipe.seed)
    return model


def _shard(
    model: Transformer, shape: MeshShape, device: torch.device, precision: Precision
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        FSDPModule,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    names = ("replica", "shard")
    mesh = init_device_mesh(device.type, (shape.replicas, shape.shards), mesh_dim_names=names)
    if shape.replicas == 1:
        mesh = mesh["shard"]
    half = torch.bfloat16 if precision == "bfloat16" else None
    # the residual stream stays float32 from block to block, as without shards
    policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
    last = len(model.layers) - 1
    for index, block in enumerate(model.layers):
        # the last block is the first that the backward pass needs
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=index < last)
    # embeddings and the last norm, whose weights stay gathered from the forward pass to the loss
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    register_fsdp_forward_method(model, "hidden_states")
    for module in (model, *model.layers):
        cast(FSDPModule, module).set_gradient_divide_factor(1.0)
        # a plain sum, without the product that gloo does not know
        cast(FSDPModule, module).set_force_sum_reduction_for_comms(True)


def reshard(model: Transformer, ranks: Ranks) -> None:
    """Cut again what a forward pass without a backward pass, as in a validation, left gathered."""
    if ranks.size == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def gather_model(model: Transformer, ranks: Ranks, device: torch.device) -> Transformer:
    """The whole model on the first rank; the others keep their shards. All ranks have to call it.

    Takes the memory of the whole weights in float32 on the first rank's host and device.
    """
    if not is_sharded(model.output_weight):
        return model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(cast(nn.Module, model), options=options)
    if not ranks.is_first:
        return model
    whole = build_transformer(model.config, device)
    whole.load_state_dict(weights)
    return whole


def placed_as(weight: Tensor, value: Tensor) -> Tensor:
    """An optimizer's whole tensor on the device of its weight; one of the weight's shape is cut as
    that is.
    """
    if not is_sharded(weight) or value.shape != weight.shape:
        return value.to(weight.device)
    placed = torch.empty_like(weight, dtype=value.dtype)
    fill(placed, value)
    return placed


@torch.no_grad()
def copy_state(model: Transformer, source: Transformer) -> None:
    """Fill a model, sharded or not, with the weights of one of the same shape that is whole."""
    weights = source.state_dict()
    if not is_sharded(model.output_weight):
        model.load_state_dict(weights)
        return
    for name, weight in model.state_dict().items():
        fill(weight, weights[name])
