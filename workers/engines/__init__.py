"""The libraries that run models, behind `Engine` or `Embedder`; none is imported before it is needed."""

from config.models import Model, Provider
from config.settings import provider_key
from workers.engines.base import Embedder, Engine
from workers.engines.errors import ModelUnavailableError
from workers.mlx_host import lack_of_mlx


def make_engine(model: Model, slots: int, provider: Provider | None = None) -> Engine:
    """Load a model's engine.

    Args:
        model: to run.
        slots: how many calls it will be given at once.
        provider: of a model of the engine `cloud`; its key is read here.

    Raises:
        ModelUnavailableError: the model's file is missing or broken, or its engine is not installed.
    """
    if model.engine == "echo":
        from workers.engines.echo import EchoEngine  # noqa: PLC0415

        return EchoEngine(model.name, delay_s=float(model.upstream or 0), slots=slots)
    if model.engine == "llama":
        from workers.engines.llama import load  # noqa: PLC0415 - costs a second and needs its extra

        return load(model, slots=slots)
    if model.engine == "mlx":
        if lack := lack_of_mlx():
            raise ModelUnavailableError(model.name, str(lack))
        from workers.engines.mlx import load as load_mlx  # noqa: PLC0415 - as above

        return load_mlx(model, slots=slots)
    if model.engine == "cloud" and provider is not None:
        from workers.engines.cloud import load as load_cloud  # noqa: PLC0415 - as above

        key = provider_key(provider.api_key_env) if provider.api_key_env else None
        return load_cloud(model, provider, key, slots=slots)
    raise ModelUnavailableError(model.name, f"this version has no engine {model.engine!r}")


def make_embedder(model: Model, slots: int, provider: Provider | None = None) -> Embedder:
    """Load an embedding model's engine; as `make_engine` does."""
    if model.engine == "echo":
        from workers.engines.echo_embed import EchoEmbedder  # noqa: PLC0415

        dimensions, delay_s = model.dimensions or 1, float(model.upstream or 0)
        return EchoEmbedder(model.name, dimensions, delay_s=delay_s, slots=slots)
    if model.engine == "llama":
        from workers.engines.llama_embed import load  # noqa: PLC0415 - as above

        return load(model, slots=slots)
    if model.engine == "cloud" and provider is not None and provider.litellm_name is None:
        from workers.engines.cloud_embed import load as load_cloud  # noqa: PLC0415 - as above

        key = provider_key(provider.api_key_env) if provider.api_key_env else None
        return load_cloud(model, provider, key, slots=slots)
    raise ModelUnavailableError(model.name, f"this version makes no embeddings with engine {model.engine!r}")
