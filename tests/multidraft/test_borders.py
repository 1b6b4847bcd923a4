"At the border to transformers nothing is dropped in silence: what `generate` is given is honoured, or refused by name. Situations of public reports."
import threading

import pytest
import torch
import transformers as tf

from tokenstudy import lm as lms
from tokenstudy.lm import caches
from tokenstudy.multidraft import LMDraft, Multidraft, NGramDraft, TopDraft, as_draft
from tokenstudy.multidraft.decoding import check_setting, generate_multidraft, scheme_named, stream_multidraft
from tokenstudy.multidraft.verification import LeafToRoot, Traversal

OPTIONS = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)


@pytest.fixture
def target(): return lms.tiny_lm("llama", vocab=24, seed=3)


@pytest.fixture
def decode(): return Multidraft(LMDraft(lms.tiny_lm("llama", vocab=24, seed=2)), K=2, L=3)


def ids(*rows): return torch.tensor([list(row) for row in rows or ([3, 1, 4, 1],)])


def generate(target, decode, **options): return target.model.generate(ids(), **OPTIONS, **options, custom_generate=decode)


# ---- adapters of PEFT

def soft_prompt(target, kind):
    import peft
    kinds = dict(prefix=peft.PrefixTuningConfig, prompt=peft.PromptTuningConfig, p=peft.PromptEncoderConfig)
    options = dict(task_type="CAUSAL_LM", num_virtual_tokens=4) | (dict(encoder_hidden_size=8) if kind == "p" else {})
    adapted = peft.get_peft_model(target.model, kinds[kind](**options)).eval()
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad: p.normal_(0, 2.)
    return adapted


@pytest.mark.parametrize("kind", ("prefix", "prompt", "p"))
def test_reported_soft_prompts_are_refused(target, decode, kind):
    adapted = soft_prompt(target, kind)
    with pytest.raises(ValueError, match="soft prompt"): adapted.generate(input_ids=ids(), **OPTIONS, custom_generate=decode)
    with pytest.raises(ValueError, match="soft prompt"): generate_multidraft(lms.LM(adapted, None), decode.drafts, [[3, 1]])
    with pytest.raises(ValueError, match="soft prompt"): lms.CachedModel(lms.LM(adapted, None), 1)


def test_an_adapter_of_weights_is_decoded(target, decode):
    import peft
    adapted = peft.get_peft_model(target.model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    plain = adapted.generate(input_ids=ids(), **OPTIONS)
    assert torch.equal(adapted.generate(input_ids=ids(), **OPTIONS, custom_generate=decode), plain)
    done = generate_multidraft(lms.LM(adapted, None, "adapted"), decode.drafts, ids().tolist(), temperature=0, max_new_tokens=8, ends=())
    assert done.rows[0].response_ids == plain[0, 4:].tolist()


# ---- inputs beside ids

def test_reported_inputs_beside_ids_are_refused(target, decode):
    embedded = target.model.get_input_embeddings()(ids())
    cache = tf.DynamicCache(config=target.model.config)
    empty = tf.DynamicCache(config=target.model.config)
    target.model(ids([9, 17, 5]), past_key_values=cache)
    for given, named in ((dict(inputs_embeds=embedded), "inputs_embeds"), (dict(position_ids=torch.tensor([[10, 20, 30, 40]])), "position_ids"),
                         (dict(past_key_values=cache, attention_mask=torch.ones(1, 7, dtype=torch.long)), "past_key_values"), (dict(past_key_values=empty), "past_key_values")):
        with pytest.raises(ValueError, match=f"{named}.*leave"): generate(target, decode, **given)
    gpt2 = lms.tiny_lm("gpt2", vocab=24, seed=3)
    other = Multidraft(LMDraft(lms.tiny_lm("gpt2", vocab=24, seed=2)), K=2)
    with pytest.raises(ValueError, match="token_type_ids.*leave"): generate(gpt2, other, token_type_ids=torch.zeros(1, 4, dtype=torch.long))


def test_usual_inputs_are_taken(target, decode):
    plain = target.model.generate(ids(), **OPTIONS)
    for given in (dict(position_ids=torch.arange(4)[None]), dict(attention_mask=torch.ones(1, 4, dtype=torch.long)), dict(use_cache=True), dict(logits_to_keep=1)):
        assert torch.equal(generate(target, decode, **given), plain), given
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    two = ids([0, 0, 3, 1, 4, 1], [5, 9, 2, 6, 5, 3])
    assert torch.equal(target.model.generate(two, attention_mask=mask, **OPTIONS, custom_generate=decode), target.model.generate(two, attention_mask=mask, **OPTIONS))


def test_embeddings_alone_are_refused_by_name(target, decode):
    embedded = target.model.get_input_embeddings()(ids())
    with pytest.raises(ValueError, match="inputs_embeds"): target.model.generate(inputs_embeds=embedded, **OPTIONS, custom_generate=decode)


def test_other_ways_to_decode_are_refused(target, decode):
    draft = lms.tiny_lm("llama", vocab=24, seed=2).model
    for given in (dict(prompt_lookup_num_tokens=3), dict(assistant_model=draft), dict(penalty_alpha=.6, top_k=4)):
        with pytest.raises(ValueError, match=next(iter(given))): generate(target, decode, **given)


# ---- processors

def sampled(target, decode, **options):
    return target.model.generate(ids(), max_new_tokens=2, do_sample=True, eos_token_id=None, pad_token_id=0, custom_generate=decode, **options)


def test_reported_attributes_of_warpers_are_refused(target, decode):
    for warper in (tf.TopPLogitsWarper(.01, min_tokens_to_keep=5), tf.TopPLogitsWarper(.5, filter_value=-1.), tf.TopKLogitsWarper(3, filter_value=-1.)):
        with pytest.raises(ValueError, match="min_tokens_to_keep=5|filter_value=-1"): sampled(target, decode, logits_processor=tf.LogitsProcessorList([warper]), top_k=0)


def test_reported_processors_name_keyword_and_cure(target, decode):
    for given, cure in ((dict(repetition_penalty=1.05), "repetition_penalty=1.0"), (dict(no_repeat_ngram_size=2), "no_repeat_ngram_size=0"), (dict(min_p=.1), "min_p=None"),
                        (dict(typical_p=.9), "typical_p=1.0"), (dict(suppress_tokens=[3]), "suppress_tokens=None"), (dict(bad_words_ids=[[3]]), "bad_words_ids=None"),
                        (dict(prefix_allowed_tokens_fn=lambda row, text: [1, 2]), "prefix_allowed_tokens_fn=None"), (dict(remove_invalid_values=True), "remove_invalid_values=False")):
        with pytest.raises(ValueError, match=cure): sampled(target, decode, **given)


def test_a_subclass_of_a_warper_is_refused(target, decode):
    class Own(tf.TemperatureLogitsWarper):
        def __call__(self, input_ids, scores): return scores
    with pytest.raises(ValueError, match="Own"): sampled(target, decode, logits_processor=tf.LogitsProcessorList([Own(.5)]))


def test_what_changes_no_distribution_is_taken(target, decode):
    assert sampled(target, decode, renormalize_logits=True).shape == (1, 6)
    assert sampled(target, decode, logits_processor=tf.LogitsProcessorList([tf.TopKLogitsWarper(3)]), top_k=0, temperature=.7).shape == (1, 6)   # they commute
    with pytest.raises(ValueError, match="top_p last"): sampled(target, decode, logits_processor=tf.LogitsProcessorList([tf.TopPLogitsWarper(.9), tf.TopKLogitsWarper(3)]), top_k=0)


# ---- streamers

class Words:
    "A tokenizer for a streamer."
    def decode(self, ids, **_): return "".join(f"{int(i)} " for i in ids)


def streamed(target, decode, **options):
    streamer, failed = tf.TextIteratorStreamer(Words(), timeout=120), []
    def work():
        try: target.model.generate(ids(), **OPTIONS, streamer=streamer, custom_generate=decode, **options)
        except ValueError as e: failed.append(str(e))
    thread = threading.Thread(target=work)
    thread.start()
    text = "".join(streamer)                                            # ends, or the queue's own timeout raises
    thread.join()
    return text, failed


def test_reported_streamer_given_to_generate_is_served(target, decode):
    text, failed = streamed(target, decode)
    assert not failed and text.split() == [str(i) for i in target.model.generate(ids(), **OPTIONS)[0].tolist()]


def test_a_streamer_ends_when_decoding_is_refused(target, decode):
    text, failed = streamed(target, decode, repetition_penalty=1.3)
    assert "repetition_penalty" in failed[0]
    with pytest.raises(ValueError, match="there are two"): streamed_twice(target)


def streamed_twice(target):
    decode = Multidraft(LMDraft(lms.tiny_lm("llama", vocab=24, seed=2)), K=2, streamer=tf.TextStreamer(Words()))
    target.model.generate(ids(), **OPTIONS, streamer=tf.TextStreamer(Words()), custom_generate=decode)


# ---- one decoding at a time

def test_reported_threads_share_no_state(target, decode):
    "Each call gives what it gives alone, or says that the drafts are taken."
    plain, found = target.model.generate(ids(), **OPTIONS), []
    def work():
        for _ in range(4):
            try: found.append(torch.equal(generate(target, decode), plain))
            except ValueError as e: found.append(str(e))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(found) == 16 and True in found
    assert all(x is True or "another decoding that has not ended" in x for x in found)


def test_two_streams_on_one_draft_are_refused(target):
    draft = LMDraft(lms.tiny_lm("llama", vocab=24, seed=2))
    first = stream_multidraft(target, draft, [[3, 1]], max_new_tokens=4)
    next(first)
    for drafts in (draft, [draft, NGramDraft()]):
        with pytest.raises(ValueError, match="another decoding"): next(stream_multidraft(target, drafts, [[3, 1]], max_new_tokens=4))
    first.close()
    assert generate_multidraft(target, draft, [[3, 1]], max_new_tokens=4, ends=()).rows[0].response_ids
    class Broken(NGramDraft):
        def propose(self, *args, **kwargs): raise RuntimeError("broken")
    broken = Broken()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"): generate_multidraft(target, broken, [[3, 1]], max_new_tokens=4)   # and is free again


# ---- what a user tries first

def test_a_model_of_transformers_is_a_draft(target):
    model = lms.tiny_lm("llama", vocab=24, seed=2).model
    plain = target.model.generate(ids(), **OPTIONS)
    for decode in (Multidraft(model), Multidraft(LMDraft(model)), Multidraft([model, NGramDraft()]), Multidraft(TopDraft(model, nodes=5), "traversal")):
        assert torch.equal(generate(target, decode), plain)
    assert as_draft(model).lm.name == "LlamaForCausalLM" and "LMDraft" in repr(Multidraft(model))
    with pytest.raises(ValueError, match="str is neither a Draft nor a language model"): Multidraft("gpt2")
    with pytest.raises(TypeError, match="str is no language model"): LMDraft("gpt2")


def test_schemes_by_name():
    assert [type(scheme_named(name)) for name in ("traversal", "leaf-to-root", "LeafToRoot")] == [Traversal, LeafToRoot, LeafToRoot]
    with pytest.raises(ValueError, match="scheme = 'best'.*Optimal"): scheme_named("best")


def test_a_setting_is_checked_when_it_is_made():
    draft = NGramDraft()
    for options, said in ((dict(K=0), "K = 0"), (dict(L=2.5), "L = 2.5"), (dict(scheme="no"), "scheme = 'no'"), (dict(scheme=7), "scheme = 7"), (dict(scheme="block", K=2), "Block verifies one")):
        with pytest.raises(ValueError, match=said): Multidraft(draft, **options)


# ---- models whose attention takes no tree

def made(config): return lms.LM(tf.AutoModelForCausalLM.from_config(config).eval(), None, "made")


def test_reported_local_attention_is_refused():
    config = tf.GPTNeoConfig(vocab_size=24, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=64)
    with pytest.raises(ValueError, match="local"): caches.check_attention(made(config))
    config = tf.GPTNeoConfig(vocab_size=24, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]], max_position_embeddings=64)
    caches.check_attention(made(config))


def test_the_probe_finds_what_no_configuration_says(target, monkeypatch):
    "A model that masks by slot: its configuration is that of any Llama."
    class BySlot(tf.LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
            if attention_mask is not None and attention_mask.dim() == 4:
                attention_mask = attention_mask.clone()
                attention_mask[..., :-4] = torch.finfo(attention_mask.dtype).min          # a window of four slots
            return super().forward(input_ids, attention_mask, position_ids, **kwargs)
    torch.manual_seed(1)
    hidden = lms.LM(BySlot(target.model.config).eval(), None, "hidden")
    for _ in range(2):                                                                   # the second time from memory
        with pytest.raises(ValueError, match="hidden: BySlot cannot read a tree.*total variation"): caches.check_attention(hidden)
    with pytest.raises(ValueError, match="cannot read a tree"): check_setting(hidden, NGramDraft())


def test_reported_quantised_activations_are_found(target):
    "Per-tensor dynamic int8: a node's logits depend on its siblings."
    model = torch.ao.quantization.quantize_dynamic(lms.tiny_lm("llama", vocab=24, seed=3).model, {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="cannot read a tree"): caches.check_attention(lms.LM(model, None, "int8"))


def test_encoders_and_other_forms_are_refused_in_a_sentence():
    t5 = tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=24, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()
    with pytest.raises(ValueError, match="encoder with a decoder"): caches.check_attention(lms.LM(t5, None, "t5"))
    alibi = tf.FalconConfig(vocab_size=24, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, alibi=True, new_decoder_architecture=False)
    with pytest.raises(ValueError, match="made: "): caches.check_attention(made(alibi))
    latent = tf.DeepseekV3Config(vocab_size=24, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                                 kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=2, num_experts_per_tok=1, n_group=1,
                                 topk_group=1, first_k_dense_replace=1)
    decode, model = Multidraft(LMDraft(lms.tiny_lm("llama", vocab=24, seed=2)), K=2), made(latent).model      # keys wider than values
    assert torch.equal(model.generate(ids(), **OPTIONS, custom_generate=decode), model.generate(ids(), **OPTIONS))


def test_a_model_in_training_mode_is_probed_at_rest():
    config = tf.LlamaConfig(vocab_size=24, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, attention_dropout=.5)
    model = tf.AutoModelForCausalLM.from_config(config).train()
    caches.check_attention(lms.LM(model, None, "training"))
    assert model.training


def test_a_model_of_pictures_and_text_is_decoded_as_text():
    "What AutoModelForCausalLM gives for a picture model has its sizes in a text configuration."
    text = dict(vocab_size=24, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64, model_type="llama")
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4, model_type="clip_vision_model")
    torch.manual_seed(0)
    config = tf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=23)
    model = tf.LlavaForConditionalGeneration(config).eval()
    decode = Multidraft(LMDraft(lms.tiny_lm("llama", vocab=24, seed=2)), K=2)
    assert torch.equal(model.generate(ids(), **OPTIONS, custom_generate=decode), model.generate(ids(), **OPTIONS))
