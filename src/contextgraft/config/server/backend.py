"""The server that runs the models of an evaluation: one that is started for each model, or one that runs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Count, File, Frozen

ServerName = Literal["vllm", "llama-server"]
OF_STARTED = ("tensor_parallel", "args", "converter", "temporary", "start_minutes")  # keys with `serve` only
UNSERVED = ("repetition", "perplexity", "long_perplexity", "divergence")  # suites that need the weights here
# Words of a server's command line that are set here, or run code of a model's repository
RESERVED = ("--host", "--port", "--model", "-m", "--served-model-name", "--alias", "--trust-remote-code")


class ServerBackend(Frozen):
    """A server with OpenAI's completions API: exactly one of `serve` and `url`."""

    serve: ServerName | None = Field(
        default=None,
        description="the server that is started for each model, and stopped after its last prompt",
    )
    tensor_parallel: Count = Field(default=1, description="GPUs of the server of `serve`; vllm only")
    args: list[str] = Field(
        default=[],
        description="further words of the server's command line",
        examples=[["--gpu-memory-utilization", "0.95"]],
    )
    converter: list[File] = Field(
        default=[],
        description="llama-server: words of the command that converts a model folder to GGUF; `FOLDER "
        "--outfile FILE --outtype TYPE` are added. It is run: trust it like a program",
        examples=[["python", "llama.cpp/convert_hf_to_gguf.py"]],
    )
    temporary: File | None = Field(
        default=None,
        description="existing folder for a graft, or a model in GGUF, while it is served; default: the "
        "system's temporary folder (TMPDIR)",
    )
    start_minutes: Count = Field(default=60, description="minutes that a server may take to load a model")
    url: File | None = Field(
        default=None,
        description="address of a server that runs already and serves one model",
        examples=["http://127.0.0.1:8000/v1/completions"],
    )
    model: File | None = Field(
        default=None, description="the name of the model at `url`; default: its folder"
    )

    @property
    def start_seconds(self) -> float:
        """Seconds that a server may take to load a model."""
        return 60.0 * self.start_minutes

    @model_validator(mode="after")
    def one_server(self) -> Self:
        """Exactly one of serve and url, with its own keys only."""
        if (self.serve is None) == (self.url is None):
            raise ValueError("give exactly one of serve (a server that is started) and url (one that runs)")
        foreign = ("model",) if self.serve else OF_STARTED
        fields = type(self).model_fields
        given = [name for name in foreign if getattr(self, name) != fields[name].default]
        if given:
            raise ValueError(f"{', '.join(given)}: not a key of {'serve' if self.serve else 'url'}")
        if bool(self.converter) != (self.serve == "llama-server"):
            raise ValueError("converter is needed by llama-server, which reads GGUF, and by no other server")
        if self.tensor_parallel > 1 and self.serve != "vllm":
            raise ValueError("tensor_parallel is an option of vllm; give other servers theirs in args")
        reserved = [word for word in self.args if word.partition("=")[0] in RESERVED]
        if reserved:
            raise ValueError(
                f"args cannot have {', '.join(reserved)}: it is set by this program, or runs code"
            )
        return self
