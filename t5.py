"""T5, the encoder-decoder, in plain PyTorch: the student that `train.py` trains.

References: Raffel et al. 2020 (arXiv 1910.10683) for v1.0; Shazeer 2020 (arXiv 2002.05202) for
the gated feed-forward layer of v1.1. Three fields of `T5Config`, set in `V1_1`, tell them apart.
`tests/test_t5.py` holds logits, loss, gradients and greedy output to those of transformers.

    B  batch size        D  model width         H  attention heads
    S  source length     K  width of a head     V  vocabulary: rows of the embedding
    T  target length

Not included: beam search and sampling, encoder-only use, pre-training by span corruption.
"""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

PAD, EOS, UNK = 0, 1, 2  # ids of <pad> (also the decoder's first input), </s> and <unk>
MAX_TARGET = 256  # the longest text that a student learns or writes, in ids


@dataclass(frozen=True)
class T5Config:
    """The fields of a published config.json under their own names, and `num_tokens`."""

    vocab_size: int = 32_128  # V
    num_tokens: int = 32_100  # ids from here on name no token and are never generated
    d_model: int = 512  # D
    d_kv: int = 64  # K
    d_ff: int = 2_048  # F
    num_heads: int = 8  # H
    num_layers: int = 6  # of the encoder
    num_decoder_layers: int = 6
    feed_forward_proj: str = "relu"  # v1.1: "gated-gelu"
    tie_word_embeddings: bool = True  # the output head is the embedding; v1.1: its own matrix
    scale_decoder_outputs: bool = True  # times D**-0.5 before the head; v1.1: not scaled
    dropout_rate: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128  # all distances from here on share a bucket


V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, scale_decoder_outputs=False)
DEEP = dict(d_model=768, num_heads=12, num_layers=12, num_decoder_layers=12)
NARROW = dict(d_ff=1_024, num_heads=6, num_layers=8, num_decoder_layers=8)
TINY = dict(d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, num_decoder_layers=2)
PRESETS = {  # parameters
    "tiny": T5Config(**TINY, dropout_rate=0.0),  # 189,440 with the 384 rows of the toy task
    "small": T5Config(),  # 60,506,624
    "base": T5Config(**DEEP, d_ff=3_072),  # 222,903,552
    "v1_1-small": T5Config(**NARROW, **V1_1),  # 76,961,152
    "v1_1-base": T5Config(**DEEP, **V1_1),  # 247,577,856
}


# ------------------------------------------------------------------------------------------------
# the layers

# cuDNN's attention, the default on H100, makes a new plan for each shape; under a mask it may give
# NaN gradients in rows with scores far below 0 (pytorch/pytorch#196678).
torch.backends.cuda.enable_cudnn_sdp(False)


class RMSNorm(nn.Module):
    """Division by the root of the mean square, in fp32, without a mean or a bias."""

    def __init__(self, D):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):  # (..., D) -> (..., D)
        return F.rms_norm(x.float(), self.weight.shape, self.weight, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, self.H, self.K = config.d_model, config.num_heads, config.d_kv
        self.dropout = config.dropout_rate
        self.q, self.k, self.v = (nn.Linear(D, self.H * self.K, bias=False) for _ in range(3))
        self.o = nn.Linear(self.H * self.K, D, bias=False)

    def heads(self, x):  # (B, T, H * K) -> (B, H, T, K)
        return x.unflatten(-1, (self.H, self.K)).transpose(1, 2)

    def keys_values(self, x):  # (B, S, D) -> twice (B, H, S, K)
        return self.heads(self.k(x)), self.heads(self.v(x))

    def forward(self, x, keys, values, bias):
        """(B, T, D) -> (B, T, D). `bias` is added to the scores, (B, H, T, S)."""
        q = self.heads(self.q(x))
        dropout = self.dropout if self.training else 0.0
        # no division by sqrt(K): in T5 this factor is part of q's initialisation
        out = F.scaled_dot_product_attention(q, keys, values, bias, dropout, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, d_ff, gated = config.d_model, config.d_ff, config.feed_forward_proj == "gated-gelu"
        self.gate = nn.Linear(D, d_ff, bias=False) if gated else None
        self.up = nn.Linear(D, d_ff, bias=False)
        self.down = nn.Linear(d_ff, D, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x):  # (B, T, D) -> (B, T, D)
        up = self.up(x)
        if self.gate is None:
            h = up.relu_()  # in place, which saves memory
        else:  # in fp32, since the product may exceed fp16's range
            h = F.gelu(self.gate(x), approximate="tanh").float() * up
        if up.dtype == torch.half:  # the product would exceed fp16's largest number, 65,504
            with torch.autocast(x.device.type, enabled=False):
                return self.down(self.dropout(h.float()))
        return self.down(self.dropout(h))


class EncoderBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config.d_model), Attention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config.d_model), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x, bias):  # (B, S, D) -> (B, S, D)
        h = self.attention_norm(x)
        x = x + self.dropout(self.attention(h, *self.attention.keys_values(h), bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config.d_model), Attention(config)
        self.cross_norm, self.cross_attention = RMSNorm(config.d_model), Attention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config.d_model), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x, bias, cross_kv, cross_bias, cache=None):
        """(B, T, D) -> (B, T, D). `cross_kv`: keys and values of the encoder's output. `cache`:
        those of the positions so far, with room at the end for this position's (T = 1)."""
        h = self.attention_norm(x)
        keys, values = self.attention.keys_values(h)
        if cache is not None:
            cache[0][:, :, -1:], cache[1][:, :, -1:] = keys, values
            keys, values = cache
        x = x + self.dropout(self.attention(h, keys, values, bias))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), *cross_kv, cross_bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def relative_bucket(distance, bidirectional, num_buckets=32, max_distance=128):
    """Return the rows of the bias table for key minus query positions (any shape, integers).

    In each direction half of the buckets hold one distance each; the widths of the others grow
    logarithmically up to max_distance. Bidirectional: the first half of the table is for keys to
    the left, the second for keys to the right. Causal: the whole table is for keys to the left.
    """
    if bidirectional:
        num_buckets //= 2
        offset, distance = (distance > 0) * num_buckets, distance.abs()
    else:
        offset, distance = 0, (-distance).clamp(min=0)
    exact = num_buckets // 2
    ratio = torch.log(distance.clamp(min=1) / exact) / math.log(max_distance / exact)
    # 1e-4: where a bucket begins, the result is a whole number that a device may round down
    wide = (exact + (ratio * (num_buckets - exact) + 1e-4).long()).clamp(max=num_buckets - 1)
    return offset + torch.where(distance < exact, distance, wide)


MASKED = -30_000.0  # added to a score that must not count; fits in fp16, unlike -1e9


class RelativeBias(nn.Embedding):
    """A learned addition to the scores, one per head and bucket of relative distances."""

    def __init__(self, config, causal):
        super().__init__(config.relative_attention_num_buckets, config.num_heads)
        self.causal, self.max_distance = causal, config.relative_attention_max_distance

    def forward(self, T):  # -> (1, H, T, T)
        positions = torch.arange(T, device=self.weight.device)
        distance = positions[None, :] - positions[:, None]
        rows = relative_bucket(distance, not self.causal, self.num_embeddings, self.max_distance)
        # contiguous: CUDA's fused attention refuses a bias that is not
        bias = super().forward(rows).permute(2, 0, 1)[None].contiguous()
        return bias + MASKED * (distance > 0).float() if self.causal else bias


def padding_bias(input_ids):  # (B, S) -> (B, 1, 1, S)
    return MASKED * (input_ids == PAD)[:, None, None, :].float()


# ------------------------------------------------------------------------------------------------
# the model


class T5(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        V, D = config.vocab_size, config.d_model
        self.embedding = nn.Embedding(V, D)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.encoder_bias = RelativeBias(config, causal=False)
        self.encoder_norm = RMSNorm(D)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_decoder_layers))
        self.decoder_bias = RelativeBias(config, causal=True)
        self.decoder_norm = RMSNorm(D)
        self.head = None if config.tie_word_embeddings else nn.Linear(D, V, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.apply(self.initialise)

    @torch.no_grad()
    def initialise(self, module):
        """Draw weights at T5's scales: a matrix keeps the variance, q includes 1 / sqrt(K)."""
        D, K = self.config.d_model, self.config.d_kv
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):  # of tokens, or a RelativeBias
            module.weight.normal_(std=1.0 if module is self.embedding else D**-0.5)
        elif isinstance(module, Attention):  # after its q, k, v and o were drawn
            module.q.weight.normal_(std=(D * K) ** -0.5)

    def encode(self, input_ids):
        """(B, S) ids, where 0 is padding -> (B, S, D)."""
        bias = self.encoder_bias(input_ids.shape[1]) + padding_bias(input_ids)
        x = self.dropout(self.embedding(input_ids))
        for block in self.encoder:
            x = block(x, bias)
        return self.dropout(self.encoder_norm(x))

    def decode(self, target_ids, encoded, input_ids):
        """Teacher forcing: the input at position t is the target at t - 1, and <pad> at t = 0.

        (B, T), (B, S, D), (B, S) -> (B, T, D), ready for `logits`.
        """
        shifted = F.pad(target_ids, (1, -1), value=PAD)
        bias, cross_bias = self.decoder_bias(target_ids.shape[1]), padding_bias(input_ids)
        x = self.dropout(self.embedding(shifted))
        for block in self.decoder:
            x = block(x, bias, block.cross_attention.keys_values(encoded), cross_bias)
        return self.finish(x)

    def finish(self, x):  # (..., D) -> (..., D)
        x = self.dropout(self.decoder_norm(x))
        return x * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else x

    def logits(self, hidden):  # (..., D) -> (..., V)
        return F.linear(hidden, (self.embedding if self.head is None else self.head).weight)

    def forward(self, input_ids, target_ids):
        """(B, S), (B, T) ids -> (B, T, V) logits of each target, given those before it."""
        return self.logits(self.decode(target_ids, self.encode(input_ids), input_ids))

    @torch.no_grad()
    def generate(self, input_ids, max_new_tokens):
        """Decode all rows greedily as one batch, without dropout.

        (B, S) ids -> ids (B, T) and their log-probabilities (B, T) in fp32, both 0 after </s>;
        T <= max_new_tokens. A row without </s> was cut.
        """
        assert max_new_tokens > 0, "expected at least one new token"
        was_training, T = self.training, max_new_tokens
        self.eval()
        try:
            encoded, cross_bias = self.encode(input_ids), padding_bias(input_ids)
            # keys and values of each block in one tensor: (2, B, H, S, K) and (2, B, H, T, K)
            cross = [torch.stack(b.cross_attention.keys_values(encoded)) for b in self.decoder]
            caches = [kv.new_empty(*kv.shape[:3], T, kv.shape[4]) for kv in cross]
            bias, rows = self.decoder_bias(T), torch.arange(len(input_ids), device=input_ids.device)
            ids = input_ids.new_full((len(rows), T), PAD, dtype=torch.long)
            log_probs, token = torch.zeros(ids.shape, device=ids.device), ids[:, :1]
            for t in range(T):
                x, causal = self.embedding(token), bias[:, :, t : t + 1, : t + 1]
                for block, cross_kv, cache in zip(self.decoder, cross, caches):
                    x = block(x, causal, cross_kv, cross_bias, cache[:, : len(x), :, : t + 1])
                logits = self.logits(self.finish(x[:, 0])).float()
                token = logits[:, : self.config.num_tokens].argmax(-1, keepdim=True)
                ids[rows, t] = token[:, 0]
                log_probs[rows, t] = -F.cross_entropy(logits, token[:, 0], reduction="none")
                going = (token[:, 0] != EOS).nonzero()[:, 0]
                if len(going) == 0:
                    break
                if len(going) < len(rows):  # rows that have ended leave the batch
                    rows, token, cross_bias = rows[going], token[going], cross_bias[going]
                    cross = [kv[:, going] for kv in cross]
                    for cache in caches:
                        cache[:, : len(rows), :, : t + 1] = cache[:, going, :, : t + 1]
            return ids[:, : t + 1], log_probs[:, : t + 1]
        finally:
            self.train(was_training)


# ------------------------------------------------------------------------------------------------
# errors and files


class InputError(ValueError):
    """What the user gave cannot be used; the message is the one line to print."""


def check(good, message):
    """Raise InputError with this message unless `good`."""
    if not good:
        raise InputError(message)


def read_json(path):
    """Return the JSON object in a file, a dict. Raises InputError, OSError."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        check(isinstance(value, dict), f"found {value!r:.60}")
        return value
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON object: {error}") from None


def replace_file(path, write):
    """Write a file atomically: `write(file)` fills a temporary one, which is renamed to `path`."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:  # torch.save may raise it over the OSError of a full disk
        raise error.__context__ or error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    text = json.dumps(value, indent=2)
    replace_file(path, lambda file: file.write(text.encode()))


# ------------------------------------------------------------------------------------------------
# weights

KEYS = {  # our name -> the published one; {} is the block's number
    "embedding": "shared",
    "encoder_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "encoder.attention_norm": "encoder.block.{}.layer.0.layer_norm",
    "encoder.attention": "encoder.block.{}.layer.0.SelfAttention",
    "encoder.feed_forward_norm": "encoder.block.{}.layer.1.layer_norm",
    "encoder.feed_forward": "encoder.block.{}.layer.1.DenseReluDense",
    "encoder_norm": "encoder.final_layer_norm",
    "decoder_bias": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "decoder.attention_norm": "decoder.block.{}.layer.0.layer_norm",
    "decoder.attention": "decoder.block.{}.layer.0.SelfAttention",
    "decoder.cross_norm": "decoder.block.{}.layer.1.layer_norm",
    "decoder.cross_attention": "decoder.block.{}.layer.1.EncDecAttention",
    "decoder.feed_forward_norm": "decoder.block.{}.layer.2.layer_norm",
    "decoder.feed_forward": "decoder.block.{}.layer.2.DenseReluDense",
    "decoder_norm": "decoder.final_layer_norm",
    "head": "lm_head",
}
EMBEDDINGS = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
DROPPED = ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]  # never used


def published_names(model):
    """Return {our parameter's name: its published name}, of all parameters of the model."""
    up = ".wi" if model.config.feed_forward_proj == "relu" else ".wi_1"
    matrices = {".gate": ".wi_0", ".up": up, ".down": ".wo"}
    names = {}
    for ours, _ in model.named_parameters():  # such as encoder.3.feed_forward.up.weight
        match = re.fullmatch(r"(\w+)(?:\.(\d+)(\.\w+))?(\.\w+)?\.weight", ours)
        stack, block, part, matrix = match.groups(default="")
        names[ours] = f"{KEYS[stack + part].format(block)}{matrices.get(matrix, matrix)}.weight"
    return names


EXPECTED = {"model_type": "t5", "layer_norm_epsilon": 1e-6}  # in config.json, if present
EXPECTED |= {"decoder_start_token_id": PAD, "pad_token_id": PAD, "eos_token_id": EOS}


def read_config(path):
    """Return the T5Config of a config.json. Raises InputError, which names the field, OSError."""
    raw = {name: value for name, value in read_json(path).items() if value is not None}
    for name, expected in EXPECTED.items():
        value = raw.get(name, expected)
        check(value == expected, f"{path}: {name}: expected {expected!r}, found {value!r:.60}")
    defaults = asdict(T5Config())
    found = defaults | raw
    found["num_decoder_layers"] = raw.get("num_decoder_layers", found["num_layers"])
    found["scale_decoder_outputs"] = raw.get("scale_decoder_outputs", found["tie_word_embeddings"])
    if found["vocab_size"] != defaults["vocab_size"]:  # not T5's own: any row may name a token
        found["num_tokens"] = raw.get("num_tokens", found["vocab_size"])
    kind, rate = found["feed_forward_proj"], found["dropout_rate"]
    good = kind in ("relu", "gated-gelu")
    check(good, f"{path}: feed_forward_proj: expected relu or gated-gelu, found {kind!r:.60}")
    expected = "relu" if kind == "relu" else "gelu_new"
    value = raw.get("dense_act_fn", expected)  # transformers 5 lets it overrule the other field
    check(value == expected, f"{path}: dense_act_fn: expected {expected}, found {value!r:.60}")
    good = type(rate) in (int, float) and 0 <= rate < 1
    check(good, f"{path}: dropout_rate: expected at least 0 and below 1, found {rate!r:.60}")
    for name in [name for name, default in defaults.items() if type(default) is int]:
        size = found[name]
        most = 256 if "layers" in name else 2**20
        good = type(size) is int and 0 < size <= most
        check(good, f"{path}: {name}: expected 1 to {most:,}, found {size!r:.60}")
    return T5Config(**{name: found[name] for name in defaults})


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.half, "BF16": torch.bfloat16}


def read_safetensors(path):
    """Return {name: tensor}. Layout: length of the header (8 bytes, little-endian), JSON, data."""
    tensors, name = {}, "header"
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            start = 8 + int.from_bytes(file.read(8), "little")
            check(start <= size, "runs past the file's end")
            for name, entry in json.loads(file.read(start - 8)).items():
                if name == "__metadata__":
                    continue
                shape, dtype = entry["shape"], DTYPES[entry["dtype"]]
                first, last = entry["data_offsets"]
                check(all(type(n) is int and n >= 0 for n in (first, last, *shape)), "bad number")
                check(start + last <= size, "runs past the file's end")
                check(math.prod(shape) * dtype.itemsize == last - first, "has another size")
                data = torch.empty(last - first, dtype=torch.uint8)
                file.seek(start + first)
                file.readinto(data.numpy())
                tensors[name] = data.view(dtype).reshape(shape)
            return tensors
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"{name!r:.99}: {error}"
            raise InputError(f"{path}: damaged, or not safetensors of floats: {why}") from None


def read_pickle(path):
    """Return {name: tensor} of a pytorch_model.bin; `weights_only` refuses code in the pickle."""
    try:
        tensors = dict(torch.load(path, map_location="cpu", weights_only=True))
        for name, tensor in tensors.items():
            check(tensor.dtype in DTYPES.values(), f"{name} is not a tensor of floats")
        return tensors
    except Exception as error:  # the unpickler raises many kinds
        why = f"cannot be read as weights: {str(error)[:80]!r}"
        raise InputError(f"{path}: {why}; if it was downloaded, delete it and run again") from None


def read_weights(folder):
    """Return the path of a folder's weights, and {name: tensor}. Raises InputError, OSError."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_pickle)):
        if (folder / name).exists():
            return folder / name, read(folder / name)
    raise FileNotFoundError(f"{folder}: expected model.safetensors or pytorch_model.bin")


def load(folder):
    """Return the T5 of a folder, published or written by `save` or transformers; eval mode, fp32.

    Strict: every parameter is filled, and every tensor of the file is used or listed in DROPPED.
    Raises OSError; InputError, which names the field, or the tensor and both shapes.
    """
    config = read_config(Path(folder) / "config.json")
    path, tensors = read_weights(Path(folder))
    head = tensors.get("lm_head.weight") if config.tie_word_embeddings else None
    embedding = next((tensors[name] for name in EMBEDDINGS if name in tensors), head)
    for name in EMBEDDINGS:  # a file may hold the embedding several times
        copy = tensors.pop(name, embedding)
        equal = copy is embedding or torch.equal(copy, embedding)
        check(equal, f"{path}: {name} differs from the other embeddings in the file")
    if embedding is not None:
        tensors["shared.weight"] = embedding
    if head is not None and torch.equal(head, embedding):
        del tensors["lm_head.weight"]
    elif head is not None:  # transformers 5 writes "tied" for untied ones, too
        config = replace(config, tie_word_embeddings=False)

    with torch.device("meta"):
        model = T5(config)
    state = {}
    for ours, published in published_names(model).items():
        expected = tuple(model.get_parameter(ours).shape)
        found = tuple(tensors[published].shape) if published in tensors else "missing"
        check(found == expected, f"{path}: {published} is {found}, expected {expected}")
        state[ours] = tensors.pop(published).float().contiguous()
    unused = sorted(map(str, tensors.keys() - set(DROPPED)))
    check(not unused, f"{path}: no place in the model for {unused[:3]}; is it a T5?")
    model.load_state_dict(state, assign=True)
    return model.eval()


def write_safetensors(tensors, path):
    """Write {name: tensor} in fp32, as `read_safetensors` and others read it."""
    arrays = [tensor.detach().float().cpu().contiguous().numpy() for tensor in tensors.values()]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in zip(tensors, arrays):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts at a multiple of 8
    text = len(text).to_bytes(8, "little") + text
    replace_file(path, lambda file: file.writelines([text, *arrays]))


def save(model, folder):
    """Write config.json, generation_config.json and model.safetensors for `load` and transformers,
    whose generate() then gives, by default, the ids of `T5.generate`."""
    ids = {"decoder_start_token_id": PAD, "pad_token_id": PAD, "eos_token_id": EOS}
    theirs = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}
    config = theirs | {"is_encoder_decoder": True, "layer_norm_epsilon": 1e-6}
    nameless = list(range(model.config.num_tokens, model.config.vocab_size))
    generation = {"max_new_tokens": MAX_TARGET, "suppress_tokens": nameless or None}
    os.makedirs(folder, exist_ok=True)
    write_json(Path(folder) / "config.json", config | ids | asdict(model.config))
    write_json(Path(folder) / "generation_config.json", generation | ids)
    state = model.state_dict()
    tensors = {published: state[ours] for ours, published in published_names(model).items()}
    write_safetensors(tensors, Path(folder) / "model.safetensors")
