"""t5.py against an untouched transformers, and the edges where there is nothing to compare with.

    pip install pytest transformers safetensors
    python -m pytest tests/test_t5.py -q                    # about 30 seconds on a CPU
    python -m pytest tests/test_t5.py -q -k "not small"     # without the full-size models

The ladder, for random weights that transformers wrote, tiny and full-size: logits within 1e-4,
loss within 1e-5, each gradient within 1e-3 of its norm, 64 greedy ids equal; then what we save,
read by transformers. Then files, other people's folders, decoding. Broken files are in
test_hostile.py, half precision in test_device.py. No two dimensions are equal.
"""

import json
from dataclasses import asdict, replace
from itertools import product
from tempfile import TemporaryDirectory

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

import t5
from t5 import EOS, PAD

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

B, S, T = 3, 11, 7
SAFE, BIN, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"
SIZES = dict(vocab_size=97, d_model=24, d_kv=4, d_ff=36, num_heads=5)
SIZES |= dict(num_layers=3, num_decoder_layers=2)
# the 64 ids that we generate go beyond a relative distance of 20
SIZES |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=20)
TINY = t5.T5Config(**SIZES, num_tokens=90)
TINY_V1_1 = replace(TINY, **t5.V1_1)
RUNGS = {
    "tiny-v1.0": TINY,
    "tiny-v1.1": TINY_V1_1,
    "tiny-own-head": replace(TINY, tie_word_embeddings=False),  # with the factor D**-0.5
    "tiny-no-factor": replace(TINY, scale_decoder_outputs=False),  # with a tied head
    "small": t5.PRESETS["small"],
    "v1_1-small": t5.PRESETS["v1_1-small"],
}
PARAMETERS = {  # of the published models; tiny's are those of the toy task
    "tiny": 189_440,
    "small": 60_506_624,
    "base": 222_903_552,
    "v1_1-small": 76_961_152,
    "v1_1-base": 247_577_856,
}
both_versions = pytest.mark.parametrize("config", [TINY, TINY_V1_1], ids=["v1.0", "v1.1"])


@pytest.fixture(scope="module", autouse=True)
def one_thread():  # on a busy machine two threads mostly wait for each other
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lively(make, config):
    """A random T5, ours or theirs, with sharper attention and a smaller embedding than it begins
    with: that one repeats one id and hardly looks at positions, so agreement would say little."""
    torch.manual_seed(0)
    model = make(config).eval()
    for name, p in model.named_parameters():
        if p.ndim == 1:
            torch.nn.init.uniform_(p, 0.5, 1.5)
        elif "bias" in name or name.endswith("q.weight"):
            p.data *= 30 if "bias" in name else 3
        elif name in ("shared.weight", "embedding.weight"):
            p.data *= 0.1
    return model


def transformers_t5(config):
    settings = transformers.T5Config(**asdict(config), decoder_start_token_id=PAD)
    model = transformers.T5ForConditionalGeneration(settings)
    if not config.tie_word_embeddings:  # transformers 5 ties all but a head that is set afterwards
        head = torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5
        model.lm_head.weight = torch.nn.Parameter(head)
    return model


def make_batch(config):
    """(B, S) and (B, T) ids; some rows are padded."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(2, config.num_tokens, (B, S), generator=generator)
    target_ids = torch.randint(2, config.num_tokens, (B, T), generator=generator)
    input_ids[0, 6:], input_ids[1, 9:], target_ids[0, 4:] = PAD, PAD, PAD
    return input_ids, target_ids


def their_output(model, input_ids, target_ids):
    labels = target_ids.masked_fill(target_ids == PAD, -100)
    return model(input_ids=input_ids, attention_mask=(input_ids != PAD).long(), labels=labels)


def assert_near(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


# ---- shapes and buckets


@pytest.mark.parametrize("preset, size", PARAMETERS.items())
def test_a_preset_has_the_published_number_of_parameters_and_runs_on_another_device(preset, size):
    rows = 384 if preset == "tiny" else 32_128  # of the toy task's vocabulary, and of T5's own
    with torch.device("meta"):  # tensors with a shape and no contents
        model = t5.T5(replace(t5.PRESETS[preset], vocab_size=rows))
        ids = torch.zeros(B, T, dtype=torch.long)
    assert sum(p.numel() for p in model.parameters()) == size
    logits = model(ids, ids)  # what forgets its device is made on the CPU, and cannot be added
    assert logits.is_meta and logits.shape == (B, T, rows)


def test_relative_buckets_are_those_of_transformers():
    """By hand: 32 buckets in two directions are 16 for keys to the left and 16 to the right, half
    of them exact. At distance 20: 8 + floor(8 * ln(20/8) / ln(128/8)) = 8 + floor(2.64) = 10."""
    distance = torch.tensor([0, -1, -7, -20, -128, -900, 1, 7, 20, 128])
    expected = [0, 1, 7, 10, 15, 15, 16 + 1, 16 + 7, 16 + 10, 16 + 15]
    assert t5.relative_bucket(distance, bidirectional=True).tolist() == expected
    for bidirectional, (buckets, last) in product([True, False], [(32, 128), (8, 20)]):
        args = torch.arange(-2000, 2001), bidirectional, buckets, last
        assert torch.equal(t5.relative_bucket(*args), T5Attention._relative_position_bucket(*args))


def test_a_new_model_begins_at_the_scales_of_transformers():
    config = replace(TINY, feed_forward_proj="gated-gelu", relative_attention_num_buckets=64)
    torch.manual_seed(0)
    ours, theirs = t5.T5(config), transformers_t5(config)
    for our_name, their_name in t5.published_names(ours).items():
        ratio = ours.get_parameter(our_name).norm() / theirs.get_parameter(their_name).norm()
        assert 0.7 < ratio < 1.4, our_name  # random: the smallest hold 320 numbers


# ---- the ladder


@pytest.fixture(scope="module", params=RUNGS)
def pair(request):
    """transformers' model, ours as read from the folder that it wrote, and a batch."""
    config = RUNGS[request.param]
    theirs = lively(transformers_t5, config)
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = t5.load(folder)
    assert ours.config == config and not ours.training
    return theirs, ours, *make_batch(config)


def test_logits_loss_and_every_gradient_are_those_of_transformers(pair):
    theirs, ours, input_ids, target_ids = pair
    logits, output = ours(input_ids, target_ids), their_output(theirs, input_ids, target_ids)
    assert_near(logits, output.logits, atol=1e-4)
    assert logits.std() > 0.05  # so that the tolerance means something
    loss = F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), ignore_index=PAD)
    assert_near(loss, output.loss, atol=1e-5)
    loss.backward()
    output.loss.backward()
    names, parameters = t5.published_names(ours), dict(theirs.named_parameters())
    assert names.keys() == dict(ours.named_parameters()).keys()
    assert sorted(names.values()) == sorted(parameters)
    for our_name, their_name in names.items():  # a tied embedding's sums both of its uses
        grad, expected = ours.get_parameter(our_name).grad, parameters[their_name].grad
        assert 0 < expected.norm() and (grad - expected).norm() < 1e-3 * expected.norm(), our_name


@torch.no_grad()
def test_with_the_same_seed_dropout_falls_where_it_does_in_transformers(pair):
    theirs, ours, *batch = pair
    torch.manual_seed(0)
    expected = their_output(theirs.train(), *batch).logits
    torch.manual_seed(0)
    logits = ours.train()(*batch)
    theirs.eval(), ours.eval()
    assert_near(logits, expected, atol=1e-4)


def test_greedy_ids_are_those_of_transformers_and_log_probabilities_those_of_teacher_forcing(pair):
    theirs, ours, input_ids, _ = pair
    nameless = list(range(ours.config.num_tokens, ours.config.vocab_size))
    settings = dict(do_sample=False, num_beams=1, max_new_tokens=64, suppress_tokens=nameless)
    mask = (input_ids != PAD).long()
    expected = theirs.generate(input_ids=input_ids, attention_mask=mask, **settings)[:, 1:]
    ids, log_probs = ours.generate(input_ids, 64)
    assert torch.equal(ids, expected)
    assert max(len(row.unique()) for row in ids) > 3  # not one id for ever
    with torch.no_grad():
        forced = ours(input_ids, ids).log_softmax(-1).gather(-1, ids[:, :, None])[:, :, 0]
    ended = (ids == EOS).cumsum(1) - (ids == EOS).long() > 0  # positions after </s>
    assert_near(log_probs, forced.masked_fill(ended, 0), atol=1e-4)


@torch.no_grad()
def test_transformers_reads_what_we_save(pair):
    theirs, ours, *batch = pair
    with TemporaryDirectory() as folder:
        t5.save(ours, folder)
        tied = t5.read_json(f"{folder}/config.json")["tie_word_embeddings"]
        read = transformers.T5ForConditionalGeneration.from_pretrained
        again, report = read(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert tied == ours.config.tie_word_embeddings == (again.lm_head.weight is again.shared.weight)
    expected = their_output(theirs, *batch).logits
    assert_near(their_output(again.eval(), *batch).logits, expected, atol=1e-6)


# ---- files

OWN_HEAD = {"tie_word_embeddings": False}  # as transformers 4 writes it
OWN_HEAD_5 = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
HEADS = [(TINY, {}, 0), (TINY, {}, 3)]  # the config, what config.json says of it
HEADS += [(TINY_V1_1, OWN_HEAD, 2), (TINY_V1_1, OWN_HEAD_5, 1)]


@torch.no_grad()
@pytest.mark.parametrize("config, said, absent", HEADS)
def test_a_pytorch_model_bin_loads_with_any_of_the_embedding_copies(tmp_path, config, said, absent):
    """Without the first `absent` of shared, encoder.embed_tokens, decoder.embed_tokens; tied, the
    head is one more copy. A table that nothing uses stands in the old files too."""
    theirs, batch = lively(transformers_t5, config), make_batch(config)
    tensors = theirs.state_dict() | dict.fromkeys(t5.EMBEDDINGS, theirs.shared.weight.detach())
    stale = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[stale] = torch.ones(8, 5)
    for name in t5.EMBEDDINGS[:absent]:
        del tensors[name]
    torch.save(tensors, tmp_path / BIN)
    new = ("num_tokens", "tie_word_embeddings", "scale_decoder_outputs")
    written = {key: value for key, value in asdict(config).items() if key not in new} | said
    (tmp_path / CONFIG).write_text(json.dumps(written))
    ours = t5.load(tmp_path)
    assert ours.config == replace(config, num_tokens=97)
    assert_near(ours(*batch), their_output(theirs, *batch).logits, atol=1e-4)


@pytest.mark.parametrize("rows, tokens", [(32_128, 32_100), (250_112, 250_112), (97, 97)])
def test_every_row_counts_as_a_token_but_the_last_28_of_t5s_own(tmp_path, rows, tokens):
    (tmp_path / CONFIG).write_text(json.dumps({"vocab_size": rows, "num_layers": 6}))
    config = t5.read_config(tmp_path / CONFIG)
    assert (config.vocab_size, config.num_tokens) == (rows, tokens)


def test_safetensors_files_are_those_of_the_safetensors_package(tmp_path):
    matrix = torch.arange(15.0).view(3, 5).T  # not contiguous
    ours = {"matrix": matrix, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 6)}
    t5.write_safetensors(ours, tmp_path / "ours")
    types = torch.float64, torch.float16, torch.bfloat16
    theirs = {str(dtype): torch.arange(21).view(7, 3).to(dtype) / 3 for dtype in types}
    theirs |= ours | {"matrix": matrix.contiguous()}
    safetensors.torch.save_file(theirs, tmp_path / "theirs", metadata={"format": "pt"})
    for read, name, expected in (
        (safetensors.torch.load_file, "ours", ours),
        (t5.read_safetensors, "ours", ours),
        (t5.read_safetensors, "theirs", theirs),
    ):
        torch.testing.assert_close(read(tmp_path / name), expected, rtol=0, atol=0)  # types too


# ---- other people's folders

GATED = dict(feed_forward_proj="gated-gelu")
FOREIGN = {  # what our message must say; what transformers is asked to write
    "decoder_start_token_id 2": dict(decoder_start_token_id=2),
    "pad_token_id 3": dict(pad_token_id=3, decoder_start_token_id=0),
    "eos_token_id 2": dict(eos_token_id=2),
    "model_type 'mt5'": dict(family="MT5", **GATED),
    "feed_forward_proj 'gated-silu'": dict(feed_forward_proj="gated-silu"),
    "dense_act_fn 'gelu'": dict(dense_act_fn="gelu", **GATED),
    "layer_norm_epsilon 1e-05": dict(layer_norm_epsilon=1e-5),
    "decoder.block.0 missing": dict(model="EncoderModel"),
}


def assert_refused(folder, words):
    """The folder is refused in one line that names it, or a file in it, and holds the words."""
    with pytest.raises((t5.InputError, FileNotFoundError)) as error:
        t5.load(folder)
    message = str(error.value)
    assert str(folder) in message and message.isprintable(), message
    assert all(word in message for word in words.split()), message


@pytest.mark.parametrize("words, settings", FOREIGN.items())
def test_a_model_that_is_not_built_here_is_refused_by_its_field(tmp_path, words, settings):
    settings = {"family": "T5", "model": "ForConditionalGeneration"} | SIZES | settings
    family, model = settings.pop("family"), settings.pop("model")
    config = getattr(transformers, f"{family}Config")(**settings)
    getattr(transformers, family + model)(config).save_pretrained(tmp_path)
    assert_refused(tmp_path, words)


@torch.no_grad()
@both_versions
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_gives_the_logits_of_transformers(tmp_path, config, dtype):
    theirs, batch = lively(transformers_t5, config), make_batch(config)
    theirs.to(dtype).save_pretrained(tmp_path)
    assert_near(t5.load(tmp_path)(*batch), their_output(theirs.float(), *batch).logits, atol=1e-4)


FLAN_T5_SMALL = """{"architectures": ["T5ForConditionalGeneration"], "decoder_start_token_id": 0,
"dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
"initializer_factor": 1.0, "is_encoder_decoder": true, "layer_norm_epsilon": 1e-06,
"model_type": "t5", "n_positions": 512, "output_past": true, "pad_token_id": 0,
"tie_word_embeddings": false, "transformers_version": "4.23.1", "use_cache": true}"""  # and sizes
AS_SAVED_BY_4 = {"dense_act_fn": "gelu_new", "is_gated_act": True}
WITHOUT_IDS = dict.fromkeys(["decoder_start_token_id", "pad_token_id", "eos_token_id"])


@torch.no_grad()
@pytest.mark.parametrize("change", [{}, AS_SAVED_BY_4, WITHOUT_IDS, {"model_type": None}])
def test_the_config_of_flan_t5_loads_with_and_without_its_optional_fields(tmp_path, change):
    theirs, batch = lively(transformers_t5, TINY_V1_1), make_batch(TINY_V1_1)
    theirs.save_pretrained(tmp_path)
    fields = json.loads(FLAN_T5_SMALL) | SIZES | change  # a null counts as absent
    (tmp_path / CONFIG).write_text(json.dumps(fields))
    ours = t5.load(tmp_path)
    assert ours.config == replace(TINY_V1_1, num_tokens=97)
    assert_near(ours(*batch), their_output(theirs, *batch).logits, atol=1e-4)


@pytest.mark.parametrize("name", [SAFE, CONFIG])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    t5.save(t5.T5(TINY), tmp_path)
    (tmp_path / name).unlink()
    assert_refused(tmp_path, name)


# ---- decoding and padding


@both_versions
def test_generate_of_transformers_with_its_defaults_gives_our_ids(tmp_path, config):
    """From the folder that we save: each text ends where ours does, after 256 ids at the latest,
    and holds no id without a name."""
    model, (input_ids, _) = lively(t5.T5, config), make_batch(config)
    head = (model.head or model.embedding).weight.data
    head[config.num_tokens :] *= 3  # so that these would often win
    t5.save(model, tmp_path)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    found = theirs.generate(input_ids=input_ids, attention_mask=(input_ids != PAD).long())[:, 1:]
    ids, _ = model.generate(input_ids, t5.MAX_TARGET)
    assert torch.equal(found, ids) and ids.shape[1] == 256
    with torch.no_grad():
        assert (model(input_ids, ids).argmax(-1) >= config.num_tokens).any()


def test_a_batch_is_decoded_as_each_row_alone():
    model, (input_ids, _) = lively(t5.T5, TINY_V1_1), make_batch(TINY_V1_1)
    written = model.generate(input_ids, 20)[0][1, 4].item()
    head = model.head.weight.data
    head[[EOS, written]] = head[[written, EOS]]  # this row now ends there
    with torch.device("meta"):  # what forgets its device would be made there
        ids, log_probs = model.generate(input_ids, 20)
    assert EOS in ids[1] and not (ids == EOS).any(1).all()
    for b in range(B):
        alone = model.generate(input_ids[b : b + 1, input_ids[b] != PAD], 20)
        missing = ids.shape[1] - alone[0].shape[1]  # if it ended before its neighbours
        assert torch.equal(F.pad(alone[0][0], (0, missing)), ids[b])
        assert_near(F.pad(alone[1][0], (0, missing)), log_probs[b], atol=1e-4)


def test_dropout_does_not_touch_decoding_and_the_mode_comes_back():
    model, (input_ids, _) = lively(t5.T5, replace(TINY, dropout_rate=0.5)), make_batch(TINY)
    expected = model.generate(input_ids, T)
    assert not any(module.training for module in model.modules())
    found = model.train().generate(input_ids, T)
    assert all(module.training for module in model.modules())
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
