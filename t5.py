"""T5, the encoder-decoder, in plain PyTorch: the student that `train.py` trains.

References: Raffel et al. 2020 (arXiv 1910.10683) for v1.0, Shazeer 2020 (arXiv 2002.05202) for
the gated feed-forward of v1.1. Three fields of `T5Config`, set in `V1_1`, tell them apart.
Equal to transformers' T5 in logits, loss, gradients and greedy output: `tests/test_t5.py`.

Letters: B batch, S source length, T target length, D model width, H heads, K head width,
F feed-forward width, V vocabulary. Ids: 0 <pad> (also the decoder's first input), 1 </s>, 2 <unk>.

Left out: beam search and sampling, encoder-only use, pre-training by span corruption.
"""

import hashlib
import json
import math
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

PAD, EOS = 0, 1


class InputError(ValueError):
    """What the user gave can't be used; the message is the one line to print."""


@dataclass(frozen=True)
class T5Config:
    """The fields of a published config.json under their own names, and `num_tokens`."""

    vocab_size: int = 32_128  # V, the rows of the embedding
    num_tokens: int = 32_100  # ids from here on name no token and are never generated
    d_model: int = 512  # D
    d_kv: int = 64  # K
    d_ff: int = 2_048  # F
    num_heads: int = 8  # H
    num_layers: int = 6  # of the encoder
    num_decoder_layers: int = 6
    feed_forward_proj: str = "relu"  # v1.1: "gated-gelu"
    tie_word_embeddings: bool = True  # the output head is the embedding; v1.1: a matrix of its own
    scale_decoder_outputs: bool = True  # times D**-0.5 before the head; v1.1: not
    dropout_rate: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128  # from here on all distances share a bucket


V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, scale_decoder_outputs=False)
DEEP = dict(d_model=768, num_heads=12, num_layers=12, num_decoder_layers=12)
TINY = dict(d_model=64, d_kv=16, d_ff=128, num_heads=4, num_layers=2, num_decoder_layers=2)
PRESETS = {
    "tiny": T5Config(**TINY, dropout_rate=0.0),
    "small": T5Config(),
    "base": T5Config(**DEEP, d_ff=3_072),
    "v1_1-small": T5Config(d_ff=1_024, num_heads=6, num_layers=8, num_decoder_layers=8, **V1_1),
    "v1_1-base": T5Config(**DEEP, **V1_1),
}


# ------------------------------------------------------------------------------------------------
# the layers

# parameter (found by identity): a copy in oneDNN's own layout, while a model generates on the CPU
PACKED = {}


@contextmanager
def decoding(model, rows):
    """Inside, the model is in eval mode, and on the CPU, outside autocast, `linear` takes oneDNN:
    F.linear takes MKL, which is slow for so few `rows` as a decoding step has."""
    was_training = model.training
    weights = [p for p in model.eval().parameters() if p.is_cpu and p.ndim == 2]
    try:
        if torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu"):
            pack = torch.ops.mkldnn._reorder_linear_weight
            PACKED.update((w, pack(w.detach(), rows)) for w in weights)
        yield
    finally:
        PACKED.clear()
        model.train(was_training)


def linear(x, weight):  # (..., D), (N, D) -> (..., N)
    if weight in PACKED:
        return torch.ops.mkldnn._linear_pointwise(x, PACKED[weight], None, "none", [], "")
    return F.linear(x, weight)


class Linear(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        return linear(x, self.weight)


class RMSNorm(nn.Module):
    def __init__(self, D):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):  # (..., D) -> (..., D); no mean, no bias, in fp32
        return F.rms_norm(x.float(), self.weight.shape, self.weight, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, self.H, self.K = config.d_model, config.num_heads, config.d_kv
        self.dropout = config.dropout_rate
        self.q, self.k, self.v = (Linear(D, self.H * self.K) for _ in range(3))
        self.o = Linear(self.H * self.K, D)

    def heads(self, x):  # (B, T, H * K) -> (B, H, T, K)
        return x.unflatten(-1, (self.H, self.K)).transpose(1, 2)

    def keys_values(self, x):  # (B, S, D) -> twice (B, H, S, K)
        return self.heads(self.k(x)), self.heads(self.v(x))

    def forward(self, x, keys, values, bias):
        """(B, T, D) -> (B, T, D). The scores are (B, H, T, S); `bias` broadcasts to them."""
        # T5 does not divide the scores by sqrt(K): its initial q is that much smaller instead.
        q, dropout = self.heads(self.q(x)), self.dropout if self.training else 0.0
        if q.shape[2] == 1 and not dropout:  # decoding: one query, where the plain form is faster
            out = (q @ keys.transpose(-1, -2) + bias).softmax(-1) @ values
        else:
            out = F.scaled_dot_product_attention(q, keys, values, bias, dropout, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        gated = config.feed_forward_proj == "gated-gelu"
        self.gate = Linear(config.d_model, config.d_ff) if gated else None
        self.up = Linear(config.d_model, config.d_ff)
        self.down = Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x):  # (B, T, D) -> (B, T, D)
        up = self.up(x)
        if self.gate is None:
            h = up.relu_()  # in place: nothing else needs `up`
        else:
            h = F.gelu(self.gate(x), approximate="tanh").float() * up  # may pass fp16's range
        if up.dtype == torch.half:  # autocast to fp16: what `down` makes passes its range, 65,504
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

    def forward(self, x, bias, memory, memory_bias, cache=None):
        """(B, T, D) -> (B, T, D). `memory`: the cross-attention's keys and values. `cache`: the
        self-attention's up to this position (T = 1), which is written into it."""
        h = self.attention_norm(x)
        keys, values = self.attention.keys_values(h)
        if cache is not None:
            cache[0][:, :, -1:], cache[1][:, :, -1:] = keys, values
            keys, values = cache
        x = x + self.dropout(self.attention(h, keys, values, bias))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), *memory, memory_bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def relative_bucket(distance, bidirectional, num_buckets=32, max_distance=128):
    """The row of the bias table for key position minus query position (any shape, integers).

    In each direction half of the buckets hold one distance each, the others grow logarithmically
    up to max_distance. Bidirectional: the table's first half is for keys to the left, its second
    for those to the right. Causal: the whole table looks left, and all to the right share row 0.
    """
    if bidirectional:
        num_buckets //= 2
        right, distance = (distance > 0) * num_buckets, distance.abs()
    else:
        right, distance = 0, (-distance).clamp(min=0)
    exact = num_buckets // 2
    far = torch.log(distance.clamp(min=1) / exact) / math.log(max_distance / exact)
    far = (exact + (far * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return right + torch.where(distance < exact, distance, far)


MASKED = -30_000.0  # added to a score that must not count; fits in fp16, where -1e9 would not


class RelativeBias(nn.Embedding):
    """What a head adds to a score, learned for each bucket of distances between two positions."""

    def __init__(self, config, causal):
        super().__init__(config.relative_attention_num_buckets, config.num_heads)
        self.causal, self.max_distance = causal, config.relative_attention_max_distance

    def forward(self, T):  # -> (1, H, T, T)
        positions = torch.arange(T, device=self.weight.device)
        distance = positions[None, :] - positions[:, None]
        rows = relative_bucket(distance, not self.causal, self.num_embeddings, self.max_distance)
        bias = super().forward(rows).permute(2, 0, 1)[None]
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
        self.head = None if config.tie_word_embeddings else Linear(D, V)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.apply(self.initialise)

    @torch.no_grad()
    def initialise(self, module):
        """T5's initial scales: each matrix keeps the variance, and q takes in the 1/sqrt(K)."""
        D, K = self.config.d_model, self.config.d_kv
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):  # of words, or a RelativeBias
            module.weight.normal_(std=1.0 if module is self.embedding else D**-0.5)
        elif isinstance(module, Attention):  # comes after its q, k, v, o
            module.q.weight.normal_(std=(D * K) ** -0.5)

    def encode(self, input_ids):
        """(B, S) ids, 0 is padding -> (B, S, D)."""
        bias = self.encoder_bias(input_ids.shape[1]) + padding_bias(input_ids)
        x = self.dropout(self.embedding(input_ids))
        for block in self.encoder:
            x = block(x, bias)
        return self.dropout(self.encoder_norm(x))

    def decode(self, target_ids, encoded, input_ids):
        """Teacher forcing: the input at position t is the target at t - 1, a <pad> at 0.

        (B, T), (B, S, D), (B, S) -> (B, T, D), ready for `logits`.
        """
        shifted = F.pad(target_ids, (1, -1), value=PAD)
        bias, memory_bias = self.decoder_bias(target_ids.shape[1]), padding_bias(input_ids)
        x = self.dropout(self.embedding(shifted))
        for block in self.decoder:
            x = block(x, bias, block.cross_attention.keys_values(encoded), memory_bias)
        return self.finish(x)

    def finish(self, x):  # (..., D) -> (..., D)
        x = self.dropout(self.decoder_norm(x))
        return x * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else x

    def logits(self, hidden):  # (..., D) -> (..., V)
        return linear(hidden, (self.embedding if self.head is None else self.head).weight)

    def forward(self, input_ids, target_ids):
        """(B, S), (B, T) ids -> (B, T, V) logits: each target's, given those before it."""
        return self.logits(self.decode(target_ids, self.encode(input_ids), input_ids))

    @torch.no_grad()
    def generate(self, input_ids, max_new_tokens, at_once=64):
        """Greedy decoding with a cache of keys and values; dropout is off.

        (B, S) ids -> ids (B, T) and their log-probabilities (B, T) in fp32, both 0 after </s>;
        T <= max_new_tokens. A row without </s> was cut off. Ids from `num_tokens` on are never
        chosen. The rows are taken in batches of `at_once`, those of like length together.
        """
        assert max_new_tokens > 0, "expected at least one new token"
        lengths = (input_ids != PAD).cumsum(1).argmax(1) + 1  # up to the last that is no <pad>
        ids = torch.full((len(input_ids), max_new_tokens), PAD, device=input_ids.device)
        log_probs, width = torch.zeros(ids.shape, device=ids.device), 0
        with decoding(self, at_once):
            for rows in lengths.argsort().split(at_once) if len(ids) else []:
                batch = input_ids[rows, : lengths[rows[-1]]]
                width = max(width, self.greedy(batch, rows, ids, log_probs))
        return ids[:, :width], log_probs[:, :width]

    def greedy(self, input_ids, rows, ids, log_probs):
        """Write one batch's outputs to its `rows` of both -> the steps that the longest took."""
        encoded, memory_bias = self.encode(input_ids), padding_bias(input_ids)
        # of each block, keys and values as one tensor: (2, B, H, S, K) and (2, B, H, T, K)
        memories = [torch.stack(b.cross_attention.keys_values(encoded)) for b in self.decoder]
        T, token = ids.shape[1], ids[rows, :1]  # <pad>
        caches = [memory.new_empty(*memory.shape[:3], T, memory.shape[4]) for memory in memories]
        bias = self.decoder_bias(T)
        for t in range(T):
            x, causal = self.embedding(token), bias[:, :, t : t + 1, : t + 1]
            for block, memory, cache in zip(self.decoder, memories, caches):
                x = block(x, causal, memory, memory_bias, cache[..., : t + 1, :])
            logits = self.logits(self.finish(x[:, 0])).float()
            token = logits[:, : self.config.num_tokens].argmax(-1, keepdim=True)
            ids[rows, t] = token[:, 0]
            log_probs[rows, t] = -F.cross_entropy(logits, token[:, 0], reduction="none")
            going = token[:, 0] != EOS
            if not going.all():  # a row that has ended is not computed further
                rows, token, memory_bias = rows[going], token[going], memory_bias[going]
                memories = [memory[:, going] for memory in memories]
                caches = [cache[:, going] for cache in caches]
            if len(rows) == 0:
                break
        return t + 1


# ------------------------------------------------------------------------------------------------
# published weights: reading and writing

# our name -> the published name; {} is the block's number
KEYS = {
    "embedding": "shared",
    "encoder_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "encoder.{}.attention_norm": "encoder.block.{}.layer.0.layer_norm",
    "encoder.{}.attention": "encoder.block.{}.layer.0.SelfAttention",
    "encoder.{}.feed_forward_norm": "encoder.block.{}.layer.1.layer_norm",
    "encoder.{}.feed_forward": "encoder.block.{}.layer.1.DenseReluDense",
    "encoder_norm": "encoder.final_layer_norm",
    "decoder_bias": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "decoder.{}.attention_norm": "decoder.block.{}.layer.0.layer_norm",
    "decoder.{}.attention": "decoder.block.{}.layer.0.SelfAttention",
    "decoder.{}.cross_norm": "decoder.block.{}.layer.1.layer_norm",
    "decoder.{}.cross_attention": "decoder.block.{}.layer.1.EncDecAttention",
    "decoder.{}.feed_forward_norm": "decoder.block.{}.layer.2.layer_norm",
    "decoder.{}.feed_forward": "decoder.block.{}.layer.2.DenseReluDense",
    "decoder_norm": "decoder.final_layer_norm",
    "head": "lm_head",
}
EMBEDDINGS = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
DROPPED = ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]  # never used


def published_names(model):
    """{our parameter's name: the published one}, for every parameter of the model."""
    wi = "wi.weight" if model.config.feed_forward_proj == "relu" else "wi_1.weight"
    matrices = {"gate.weight": "wi_0.weight", "up.weight": wi, "down.weight": "wo.weight"}
    names = {}
    for path, module in model.named_modules():
        # "encoder.3.attention" is KEYS' "encoder.{}.attention" with the number 3
        number = next((part for part in path.split(".") if part.isdigit()), "")
        if template := KEYS.get(path.replace(f".{number}.", ".{}.")):
            for name, _ in module.named_parameters():
                names[f"{path}.{name}"] = f"{template.format(number)}.{matrices.get(name, name)}"
    return names


def check(good, message):
    if not good:
        raise ValueError(message)


def read_config(path):
    """config.json -> T5Config. Raises InputError where it is not a T5 that this file builds."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = raw["vocab_size"]  # T5's own are 28 more than tokens; elsewhere that is not known
        raw.setdefault("num_tokens", T5Config.num_tokens if rows == T5Config.vocab_size else rows)
        raw.setdefault("num_decoder_layers", raw["num_layers"])
        raw.setdefault("scale_decoder_outputs", raw.get("tie_word_embeddings", True))
        config = T5Config(**{f.name: raw[f.name] for f in fields(T5Config) if f.name in raw})
        for f in fields(T5Config):
            value, most = getattr(config, f.name), 256 if "layers" in f.name else 2**20
            check(type(value) is f.type or f.type is float, f"{f.name}: {value!r:.60}")
            check(f.type is not int or 0 < value <= most, f"{f.name}: {value!r:.60}")
        check(0 <= config.dropout_rate < 1, f"dropout_rate: {config.dropout_rate!r}")
        check(config.feed_forward_proj in ("relu", "gated-gelu"), repr(config.feed_forward_proj))
        check(raw.get("layer_norm_epsilon", 1e-6) == 1e-6, "layer_norm_epsilon is not 1e-6")
        buckets, far = config.relative_attention_num_buckets, config.relative_attention_max_distance
        check(buckets >= 4 and far > buckets // 2, "relative_attention_max_distance is too small")
        return config
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not the config of a T5 v1.0 or v1.1 ({error})") from None


CHECKSUM = "t5.py sha256"  # in the metadata of our own files, which others pass over
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.half, "BF16": torch.bfloat16}


def unique(pairs):  # JSON keeps the last of two equal keys and says nothing
    names = [name for name, _ in pairs]
    check(len(set(names)) == len(names), f"expected each name once, found {names!r:.60}")
    return dict(pairs)


def first_line(error):  # of what torch says, up to the advice that follows
    text = (str(error).splitlines() or [""])[0].split(". ")[0]
    return text if text.isprintable() and text else repr(text or error)


def read_safetensors(path):
    """{name: tensor}. Layout: the header's length (8 bytes, little-endian), a JSON header, data."""
    data = bytearray(Path(path).read_bytes())
    start, tensors, end, name = 8 + int.from_bytes(data[:8], "little"), {}, 0, "the file"
    try:
        check(8 < start <= len(data), "its header would end after the file does")
        header = json.loads(data[8:start], object_pairs_hook=unique)
        checksum = header.pop("__metadata__", {}).get(CHECKSUM)
        found = hashlib.sha256(json.dumps(header).encode())
        values = torch.frombuffer(data, dtype=torch.uint8)[start:]
        found.update(values.numpy())
        for name, entry in header.items():
            (first, last), shape = entry["data_offsets"], entry["shape"]
            check(entry["dtype"] in DTYPES, f"is of type {entry['dtype']!r}")
            dtype = DTYPES[entry["dtype"]]
            check(all(type(n) is int and n >= 0 for n in (first, last, *shape)), "a bad number")
            check(last <= len(values), "would end after the file does")
            check(math.prod(shape) * dtype.itemsize == last - first, "has another size")
            # a copy, since in the file it may begin at any byte
            tensors[name] = values[first:last].clone().view(dtype).reshape(shape)
        for (first, last), name in sorted((header[name]["data_offsets"], name) for name in header):
            check(first == end, "does not begin where its neighbour ends")
            end = last
        name = "the file"
        check(end == len(values), "there are bytes after its last tensor")
        check(checksum in (None, found.hexdigest()), "its checksum is not the one written in it")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        why = f"{first_line(error)}, in {name!r:.99}"
        raise InputError(f"{path}: damaged, or not safetensors of floats: {why}") from None
    return tensors


def read_pickle(path):
    """{name: tensor} of a pytorch_model.bin; `weights_only` refuses a pickle that runs code."""
    try:
        tensors = dict(torch.load(path, map_location="cpu", weights_only=True))
        for name, value in tensors.items():
            good = torch.is_tensor(value) and value.dtype in DTYPES.values()
            good = good and value.layout == torch.strided and not value.is_meta
            check(good and isinstance(name, str), f"{name!r} is no tensor of floats")
        return tensors
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not there, and no model.safetensors beside it") from None
    except Exception as error:  # whatever a damaged file makes the unpickler meet
        raise InputError(f"{path}: can't be read as weights: {first_line(error)}") from None


def write_safetensors(tensors, path):
    """Write fp32 tensors {name: tensor} as `read_safetensors` and others read them."""
    arrays = [tensor.detach().float().cpu().contiguous().numpy() for tensor in tensors.values()]
    header, end = {}, 0
    for name, array in zip(tensors, arrays):
        span = [end, end := end + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": span}
    checksum = hashlib.sha256(json.dumps(header).encode())  # of all that the file says
    for array in arrays:
        checksum.update(array)
    metadata = {"format": "pt", CHECKSUM: checksum.hexdigest()}
    text = json.dumps({"__metadata__": metadata} | header).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts at a multiple of 8
    start = len(text).to_bytes(8, "little") + text
    replace_file(path, lambda file: file.writelines([start, *arrays]))


def replace_file(path, write):
    """A file whole or not at all: `write(file)` fills another, which takes its name when done."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(folder):
    """A T5 folder as published, or as written by `save` or transformers -> T5, in eval mode, fp32.

    Strict: every parameter is filled and every tensor of the file is used, or in DROPPED.
    Raises FileNotFoundError, or InputError naming the tensor and both shapes.
    """
    folder = Path(folder)
    config = read_config(folder / "config.json")
    if (path := folder / "model.safetensors").exists():
        tensors = read_safetensors(path)
    else:
        tensors = read_pickle(path := folder / "pytorch_model.bin")
    embeddings = {name: tensors.pop(name) for name in EMBEDDINGS if name in tensors}
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        # transformers 5 says "tied" of every model: a head that differs is one of its own
        head = tensors.pop("lm_head.weight")
        tied = not embeddings or torch.equal(head, next(iter(embeddings.values())))
        (embeddings if tied else tensors)["lm_head.weight"] = head
        config = replace(config, tie_word_embeddings=tied)
    for name, embedding in embeddings.items():
        if not torch.equal(embedding, tensors.setdefault("shared.weight", embedding)):
            raise InputError(f"{path}: {name} is not equal to the other embeddings in the file")

    with torch.device("meta"):
        model = T5(config)
    state = {}
    for ours, published in published_names(model).items():
        expected = tuple(model.get_parameter(ours).shape)
        found = tuple(tensors[published].shape) if published in tensors else "missing"
        if found != expected:
            raise InputError(f"{path}: {published} is {found}, expected {expected} by config.json")
        state[ours] = tensors.pop(published).float().contiguous()
    if unused := sorted(set(tensors) - set(DROPPED)):
        raise InputError(f"{path}: no place in the model for {unused[:3]}; is it a T5?")
    model.load_state_dict(state, assign=True)
    return model.eval()


def save(model, folder):
    """Write config.json and model.safetensors, which `load` and transformers read alike."""
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
        "is_encoder_decoder": True, "layer_norm_epsilon": 1e-6,
        "decoder_start_token_id": PAD, "pad_token_id": PAD, "eos_token_id": EOS,
    } | asdict(model.config)  # fmt: skip
    text, state = json.dumps(config, indent=2).encode(), model.state_dict()
    os.makedirs(folder, exist_ok=True)
    replace_file(Path(folder) / "config.json", lambda file: file.write(text))
    tensors = {published: state[ours] for ours, published in published_names(model).items()}
    write_safetensors(tensors, Path(folder) / "model.safetensors")
