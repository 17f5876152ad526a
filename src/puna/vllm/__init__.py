"""Puna's plugin for vLLM, an entry point of the group `vllm.general_plugins`: vLLM calls `register`
in each of its processes.

With it vLLM serves folders of type `puna` through its Transformers modeling backend; a folder of a
published family needs no plugin. vLLM is imported by `register` alone, and by the class it names.
"""

ARCHITECTURE, BACKEND = "PunaForCausalLM", "puna.vllm.transformers_backend:PunaBackend"


def register() -> None:
    """Let vLLM and transformers open folders of type `puna`; calling it again changes nothing."""
    from vllm import ModelRegistry

    from puna.auto_model import register_auto_classes

    register_auto_classes()
    ModelRegistry.register_model(ARCHITECTURE, BACKEND)
