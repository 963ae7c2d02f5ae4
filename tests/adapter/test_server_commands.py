"""The command of each server: read back as a shell reads it, with the donor's RoPE and length."""

import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from contextgraft.adapter.analysis.adapter_summary import adapter_lines, describe_adapter
from contextgraft.adapter.analysis.server_commands import adapter_commands, graft_commands
from contextgraft.adapter.lora.adapter import open_adapter


def commands(path: Path) -> dict[str, list[str]]:
    """The words of each server's command."""
    return {
        command.server: shlex.split(command.command or "") for command in adapter_commands(open_adapter(path))
    }


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.fixture
def changed(world: Any, toy: SimpleNamespace, tmp_path: Path) -> Any:
    """A copy of an adapter whose config and donor's RoPE are changed."""

    def make(
        name: str = "r4",
        config: dict[str, Any] | None = None,
        rope: dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, data in toy.contents(world.adapters / "r4").items():
            (folder / file).write_bytes(data)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
        sidecar = json.loads((folder / "contextgraft.json").read_text())
        sidecar["rope"]["donor"] |= rope or {}
        sidecar["rope"]["base"] |= base or {}
        (folder / "contextgraft.json").write_text(json.dumps(sidecar))
        return folder

    return make


def test_every_server_gets_the_donors_theta_and_length(world: Any) -> None:
    path = world.adapters / "r4"
    found = commands(path)
    rope = {"rope_type": "default", "rope_theta": 40000.0}
    override = {"rope_parameters": rope, "max_position_embeddings": 1024}
    vllm, llama, sglang = found["vLLM"], found["llama.cpp"], found["SGLang"]
    assert vllm[:3] == ["vllm", "serve", "base"]
    assert option(vllm, "--lora-modules") == f"r4={path}"
    assert option(vllm, "--max-lora-rank") == "8"
    assert json.loads(option(vllm, "--hf-overrides")) == override
    assert option(vllm, "--max-model-len") == "1024"
    assert sglang[:4] == ["sglang", "serve", "--model-path", "base"]
    assert json.loads(option(sglang, "--json-model-override-args")) == override
    assert option(sglang, "--context-length") == "1024"
    assert llama[0] == "llama-server"
    assert option(llama, "--lora") == str(path / "adapter.gguf")
    assert option(llama, "--rope-freq-base") == "40000"
    assert option(llama, "--ctx-size") == "1024"
    assert option(llama, "--override-kv") == "llama.context_length=int:1024"


def test_the_base_is_named_as_the_hub_names_it(changed: Any) -> None:
    name = {"base_model_name_or_path": "owner/name", "revision": "abc"}
    assert commands(changed(config=name))["vLLM"][2:5] == ["owner/name", "--revision", "abc"]


def test_names_of_earlier_versions_are_understood(changed: Any) -> None:
    old = {"base_model_name_or_path": "hf:owner/name@main"}
    assert commands(changed(config=old))["SGLang"][3:6] == ["owner/name", "--revision", "main"]


def test_a_base_that_only_fetch_knows_is_to_be_filled_in(changed: Any) -> None:
    adapter = open_adapter(changed(config={"base_model_name_or_path": "demo:base"}))
    for command in adapter_commands(adapter):
        words = shlex.split(command.command or "")
        assert "demo:base" not in words
        if command.server != "llama.cpp":
            assert "BASE" in words
            assert command.note == "BASE is the folder of the base (demo:base)"


@pytest.mark.parametrize("name", ["it's a folder", "a=b", "a,b", "$(touch x)"])
def test_any_folder_is_quoted(changed: Any, name: str) -> None:
    folder = changed(name)
    found = commands(folder)
    assert option(found["llama.cpp"], "--lora") == str(folder / "adapter.gguf")
    given = option(found["vLLM"], "--lora-modules")
    if given.startswith("{"):
        assert json.loads(given) == {"name": name, "path": str(folder)}
        given = option(found["SGLang"], "--lora-paths")
        assert json.loads(given) == {"lora_name": name, "lora_path": str(folder)}
    else:
        assert given == f"{name}={folder}"


def test_yarn_is_given_to_llama_cpp_by_its_options(changed: Any) -> None:
    extra = {"factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16}
    found = commands(changed(rope={"rope_type": "yarn", "extra": extra}))["llama.cpp"]
    assert option(found, "--rope-scaling") == "yarn"
    assert option(found, "--rope-scale") == "4.0"
    assert option(found, "--yarn-orig-ctx") == "128"
    assert option(found, "--yarn-beta-fast") == "16"


def test_the_length_of_yarn_is_the_servers_own(changed: Any) -> None:
    """VLLM and SGLang do not multiply the positions by YaRN's factor."""
    found = commands(changed(rope={"rope_type": "yarn", "extra": {"factor": 4.0}, "max_positions": 128}))
    override = json.loads(option(found["vLLM"], "--hf-overrides"))
    assert override["max_position_embeddings"] == 512
    assert override["rope_parameters"]["original_max_position_embeddings"] == 128
    assert option(found["vLLM"], "--max-model-len") == "512"


@pytest.mark.parametrize(
    ("model_type", "base"), [("llama", 0.5), ("glm4", 0.5), ("glm4", None), ("llama", None)]
)
def test_a_donor_whose_whole_heads_rotate_says_so_where_another_fraction_would_be_taken(
    model_type: str, base: float | None, changed: Any
) -> None:
    """VLLM's GLM-4 rotates half of each head, as transformers' class does, where the fraction is missing."""
    folder = changed(base={"fraction": base, "extra": {"partial_rotary_factor": base}} if base else {})
    path = folder / "contextgraft.json"
    sidecar = json.loads(path.read_text())
    sidecar["architecture"]["model_type"] = model_type
    path.write_text(json.dumps(sidecar))
    found = commands(folder)
    for server, name in (("vLLM", "--hf-overrides"), ("SGLang", "--json-model-override-args")):
        parameters = json.loads(option(found[server], name))["rope_parameters"]
        needed = (model_type, base) != ("llama", None)
        assert parameters.get("partial_rotary_factor") == (1.0 if needed else None)
    assert bool(found["llama.cpp"]) == (base is None)  # no option sets the rotated dimensions


def test_what_llama_cpp_has_no_option_for_is_said(changed: Any) -> None:
    extra = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = changed(rope={"rope_type": "llama3", "extra": extra})
    command = {command.server: command for command in adapter_commands(open_adapter(folder))}["llama.cpp"]
    assert command.command is None
    assert "no option sets this kind of RoPE" in str(command.note)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "attention_factor": 1.25}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("rope_type", "extra", "context"),
    [
        ("default", {}, 128),
        ("linear", {"factor": 4.0}, 512),
        ("dynamic", {"factor": 4.0}, 512),
        ("yarn", YARN, 512),
        ("llama3", {**LLAMA3, "original_max_position_embeddings": 32}, 128),
        ("longrope", {**LONGROPE, "original_max_position_embeddings": 32}, 128),
    ],
)
def test_vllm_and_sglang_get_every_kind_of_rope(
    rope_type: str, extra: dict[str, Any], context: int, changed: Any
) -> None:
    found = commands(changed(rope={"rope_type": rope_type, "extra": extra, "max_positions": 128}))
    for server, name, length in (
        ("vLLM", "--hf-overrides", "--max-model-len"),
        ("SGLang", "--json-model-override-args", "--context-length"),
    ):
        override = json.loads(option(found[server], name))
        expected = {"rope_type": rope_type, "rope_theta": 40000.0, **extra}
        assert override["rope_parameters"].items() >= expected.items()
        longest = 512 if rope_type == "yarn" else 128  # both multiply it by the other factors
        assert override["max_position_embeddings"] == longest
        assert option(found[server], length) == str(context)


@pytest.mark.parametrize(("rope_type", "extra"), [("llama3", LLAMA3), ("longrope", LONGROPE)])
def test_the_original_length_is_that_of_transformers_where_it_is_missing(
    rope_type: str, extra: dict[str, Any], changed: Any
) -> None:
    found = commands(changed(rope={"rope_type": rope_type, "extra": extra, "max_positions": 256}))
    override = json.loads(option(found["vLLM"], "--hf-overrides"))["rope_parameters"]
    assert override["original_max_position_embeddings"] == 256


def test_the_attention_factor_has_the_name_that_each_server_reads(changed: Any) -> None:
    """Neither reads longrope's `attention_factor`; SGLang and llama.cpp multiply YaRN's own."""
    own = 0.1 * math.log(4.0) + 1
    yarn = changed("yarn", rope={"rope_type": "yarn", "extra": {**YARN, "attention_factor": 2 * own}})
    found = commands(yarn)
    parameters = json.loads(option(found["SGLang"], "--json-model-override-args"))["rope_parameters"]
    assert parameters["attn_factor"] == pytest.approx(2)
    assert float(option(found["llama.cpp"], "--yarn-attn-factor")) == pytest.approx(2)
    found = commands(changed("longrope", rope={"rope_type": "longrope", "extra": LONGROPE}))
    parameters = json.loads(option(found["vLLM"], "--hf-overrides"))["rope_parameters"]
    assert (parameters["short_mscale"], parameters["long_mscale"]) == (1.25, 1.25)


@pytest.mark.parametrize("donor", ["default", "linear", "yarn"])
@pytest.mark.parametrize(("kind", "extra"), [("llama3", LLAMA3), ("longrope", LONGROPE)])
def test_llama_cpp_cannot_leave_out_the_factors_in_the_bases_file(
    kind: str, extra: dict[str, Any], donor: str, changed: Any
) -> None:
    """UltraLong's case: a YaRN donor of Llama 3.1, whose GGUF file has the tensor of Llama 3's factors."""
    rope = {"rope_type": donor, "extra": {} if donor == "default" else YARN}
    folder = changed(rope=rope, base={"rope_type": kind, "extra": extra})
    command = {command.server: command for command in adapter_commands(open_adapter(folder))}["llama.cpp"]
    assert command.command is None
    assert "no option sets this kind of RoPE" in str(command.note)


@pytest.mark.parametrize("key", ["mscale", "mscale_all_dim", "truncate"])
def test_keys_of_yarn_without_an_option_leave_no_command(key: str, changed: Any) -> None:
    folder = changed(rope={"rope_type": "yarn", "extra": {**YARN, key: 0}})
    assert not commands(folder)["llama.cpp"]


def test_settings_that_the_base_has_already_need_no_option(changed: Any) -> None:
    same = {"theta": 5e5, "rope_type": "llama3", "extra": LLAMA3}
    assert "--rope-freq-base" not in commands(changed(rope=same, base=same))["llama.cpp"]


def test_sglang_would_keep_the_bases_keys(changed: Any) -> None:
    base = {"rope_type": "yarn", "extra": {**YARN, "beta_fast": 16}}
    assert not commands(changed(rope={"rope_type": "yarn", "extra": YARN}, base=base))["SGLang"]


def test_sglang_does_not_multiply_the_positions_where_there_is_an_original_length(changed: Any) -> None:
    linear = {"rope_type": "linear", "extra": {"factor": 4.0}, "max_positions": 128}
    found = commands(changed(rope=linear, base={"rope_type": "llama3", "extra": {**LLAMA3, **YARN}}))
    assert json.loads(option(found["SGLang"], "--json-model-override-args"))["max_position_embeddings"] == 512
    assert json.loads(option(found["vLLM"], "--hf-overrides"))["max_position_embeddings"] == 128


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 2}}, "ranks 2, 4"),
        ({"alpha_pattern": {"q_proj": 8}}, "lora_alpha / r"),
        ({"use_rslora": True}, "lora_alpha / r"),
        ({"target_modules": ".*_proj"}, "must be a list"),
    ],
)
def test_what_sglang_cannot_serve_has_no_command(config: dict[str, Any], reason: str, changed: Any) -> None:
    folder = changed(config=config)
    if "rank_pattern" in config:
        weights = load_file(folder / "adapter_model.safetensors")
        for key in [key for key in weights if ".q_proj." in key]:
            weights[key] = (weights[key][:2] if "lora_A" in key else weights[key][:, :2]).contiguous()
        save_file(weights, folder / "adapter_model.safetensors")
    found = {command.server: command for command in adapter_commands(open_adapter(folder))}
    assert found["SGLang"].command is None
    assert reason in str(found["SGLang"].note)
    assert found["vLLM"].command is not None
    assert found["llama.cpp"].command is not None


def test_several_ranks_need_the_largest_in_vllm(changed: Any) -> None:
    folder = changed(config={"rank_pattern": {"no_such_module": 64}})
    assert option(commands(folder)["vLLM"], "--max-lora-rank") == "64"


def test_what_vllm_cannot_serve_has_no_command(changed: Any) -> None:
    facts = describe_adapter(open_adapter(changed(config={"bias": "all"})))
    assert facts["servers"][0]["command"] is None
    assert any("merge it" in line for line in adapter_lines(facts))


def test_a_graft_needs_no_override(tmp_path: Path) -> None:
    words = [shlex.split(command.command or "") for command in graft_commands(tmp_path / "my graft", 4096)]
    assert words[0] == ["vllm", "serve", str(tmp_path / "my graft"), "--max-model-len", "4096"]
    assert option(words[1], "--ctx-size") == "4096"
    assert option(words[2], "--context-length") == "4096"


def test_a_description_is_plain_json(world: Any) -> None:
    facts = describe_adapter(open_adapter(world.adapters / "r4"))
    assert json.loads(json.dumps(facts))["ranks"] == [4]
    assert facts["modules"] == 14
    assert facts["vllm"]["options"][:2] == ("--enable-lora", "--max-lora-rank 8")
    assert '"rope_theta": 40000.0' in facts["vllm"]["options"][2]
    assert facts["vllm"]["options"][3] == "--max-model-len 1024"
    assert [command["server"] for command in facts["servers"]] == ["vLLM", "llama.cpp", "SGLang"]
    assert len(facts["servers"][0]["command"].splitlines()) == 1
