"""lighteval's model class around a model that lives on and whose weights change in place.

The module needs lighteval's classes to be defined, so it is imported inside ``lighteval_compat.contained`` only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

import torch
from lighteval.models.model_output import ModelResponse
from lighteval.models.transformers.transformers_model import TransformersModel, TransformersModelConfig
from lighteval.tasks.requests import Doc
from lighteval.utils.utils import remove_reasoning_tags

from mergekit_optimer.errors import TaskError
from mergekit_optimer.evaluate.abilities import learn, limits_of
from mergekit_optimer.evaluate.forward import Forward
from mergekit_optimer.evaluate.loglikelihood import backward, log_likelihoods, run_forward
from mergekit_optimer.evaluate.plan import Budget, Limits, Plan, Request, plan

# Key in Doc.specific: the sample is one text of which this many tokens are given.
N_CONTEXT_TOKENS = "n_context_tokens"
# Stands for the response to a sample whose batch was not run.
_NOT_RUN = ModelResponse()
# A step of generation costs as much as running so many tokens at once, however few its rows: 30 to 90 on a CPU core
# (8 rows, models of 10M and 50M parameters); on a GPU, which launches as many kernels for it, a guess.
_STEP_TOKENS = {"cpu": 64, "cuda": 512}


class LiveConfig(TransformersModelConfig):  # type: ignore[misc]
    """lighteval's configuration without its question to the Hub for a commit."""

    def get_model_sha(self) -> str:
        return ""


class LiveModel(TransformersModel):  # type: ignore[misc]
    """A live causal language model as lighteval sees one; never cached, never deleted."""

    disable_tqdm = True
    _budget: Budget
    _forward: Forward
    _limits: Limits
    # What lighteval's loop cannot be told: which of its batches to run (None: all). And the cost of those it has made.
    _chosen: Container[int] | None = None
    _costs: list[int]

    @classmethod
    def around(cls, model: Any, tokenizer_dir: str, budget: Budget) -> LiveModel:
        """Wrap a model without loading, moving or copying it.

        Args:
            model: A transformers causal language model.
            tokenizer_dir: Folder of its tokenizer.
            budget: What is run at once.
        """
        with tempfile.TemporaryDirectory() as cache_dir:
            live: LiveModel = cls.from_model(
                model,
                LiveConfig(
                    model_name="live",
                    tokenizer=tokenizer_dir,
                    device=str(next(model.parameters()).device),
                    # Of generation; its cache of keys and values grows with the batch.
                    batch_size=max(1, min(64, budget.tokens // 128)),
                    override_chat_template=False,
                    cache_dir=cache_dir,
                ),
            )
        # lighteval's cache is keyed by the model's name, not its weights: it would return an earlier model's scores.
        live._cache = None
        # Keeps the vocabulary's scores of every step, which nothing reads.
        live.generation_config_dict.pop("output_scores", None)
        live._budget = budget
        live._forward = Forward(model)
        live._limits = limits_of(model, live.max_length)
        live._requests = {}
        live._plans = {}
        live._written_costs = {}
        return live

    def cleanup(self) -> None:
        """Keep the model: lighteval deletes it after each run."""

    def learn(self, docs: list[Doc]) -> None:
        """Find out on the samples what the model bears (see ``abilities``); it must be in evaluation mode."""
        learn(self._forward, [self.requests(doc) for doc in docs], self._limits)
        self._limits = replace(self._limits, packs=self._forward.packs)

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Same numbers as lighteval's own method, summed in float32 whatever the model's dtype, with less work."""
        _, sums, matches = self.log_likelihoods(docs)
        return self.responses(docs, sums, matches)

    def log_likelihoods(
        self, docs: list[Doc], batches: Sequence[int] | None = None
    ) -> tuple[list[int], list[float], list[bool]]:
        """Run batches of the plan of all these samples.

        Args:
            docs: Their choices are the requests, numbered through.
            batches: Numbers into ``batch_costs``; None runs all.

        Returns:
            The requests of these batches, rising, the log-likelihood of each, and whether greedy decoding writes it
            (empty where no metric asks).
        """
        work = self._plan(docs)
        if batches is not None:
            work = replace(work, batches=tuple(work.batches[number] for number in batches))
        sums, matches = log_likelihoods(self._forward, work, any(_wants_greedy(doc) for doc in docs))
        numbers = work.numbers
        return numbers, [sums[n] for n in numbers], [matches[n] for n in numbers] if matches else []

    def responses(self, docs: list[Doc], sums: list[float], matches: list[bool]) -> list[ModelResponse]:
        """lighteval's response to each sample, from the numbers of all its requests."""
        responses, end = [], 0
        for group in map(self.requests, docs):
            start, end = end, end + len(group)
            responses.append(
                ModelResponse(
                    input_tokens=list(group[0].context),
                    output_tokens=[list(request.continuation) for request in group],
                    logprobs=sums[start:end],
                    argmax_logits_eq_gold=matches[start:end],
                )
            )
        return responses

    def batch_costs(self, docs: list[Doc]) -> list[int]:
        """Tokens of each batch that ``log_likelihoods`` runs, padding included."""
        return [batch.n_tokens for batch in self._plan(docs).batches]

    def write(self, docs: list[Doc], batches: Container[int] | None = None) -> tuple[list[int], list[dict[str, Any]]]:
        """Generate in lighteval's batches of all these samples, whose padding and cut a sample's answer may depend on.

        Args:
            docs: The samples.
            batches: Numbers into ``written_costs``; None runs all.

        Returns:
            The samples of these batches, and the fields of lighteval's response to each, in plain data.

        Raises:
            TaskError: The tokenizer has no token to stop at.
        """
        self._costs = []
        if not docs:
            return [], []
        if self.tokenizer.eos_token is None:
            raise TaskError("A task generates, but the tokenizer has no end-of-text token to stop at.")
        self._chosen = batches
        try:
            found = list(enumerate(self.greedy_until(docs)))
        finally:
            self._chosen = None
        run = [(number, response) for number, response in found if response is not _NOT_RUN]
        return [number for number, _ in run], [_plain(response) for _, response in run]

    def read(self, answers: list[dict[str, Any]]) -> list[ModelResponse]:
        """lighteval's responses again, from what ``write`` returned of each sample."""
        responses = [ModelResponse(**answer) for answer in answers]
        for response in responses:
            response.text_post_processed = [
                remove_reasoning_tags(text=text, tag_pairs=[("<think>", "</think>")]) for text in response.text
            ]
        return responses

    def written_costs(self, docs: list[Doc]) -> list[int]:
        """Cost of each batch that ``write`` runs, in tokens; the batches are made once, and none is run for it."""
        key = tuple(map(id, docs))
        if key not in self._written_costs:
            self.write(docs, ())
            self._written_costs[key] = self._costs
        found: list[int] = self._written_costs[key]
        return found

    def run_forward(self, docs: list[Doc]) -> None:
        """Run what ``loglikelihood`` runs through the model, and nothing else."""
        run_forward(self._forward, self._plan(docs))

    def backward(self, docs: list[Doc], coefficients: list[float], budget: Budget) -> float:
        """Add the gradient of sum_i coefficients[i] log p(gold choice of sample i) to the parameters.

        Returns:
            The sum.
        """
        gold = [[self.requests(doc)[doc.gold_index]] for doc in docs]
        work = plan(gold, budget, self._limits, self._forward.device)
        factors = torch.tensor(coefficients, dtype=torch.float64, device=self._forward.device)
        return backward(self._forward, work, factors)

    def _plan(self, docs: list[Doc]) -> Plan:
        """The plan of these samples, made once: it costs as much Python as a small model's forward passes."""
        key = tuple(map(id, docs))
        if key not in self._plans:
            requests = [self.requests(doc) for doc in docs]
            self._plans[key] = plan(requests, self._budget, self._limits, self._forward.device)
        found: Plan = self._plans[key]
        return found

    def requests(self, doc: Doc) -> Sequence[Request]:
        """Return the tokens of a sample's choices, made once per sample.

        Raises:
            TaskError: A choice alone is longer than the model takes.
        """
        if id(doc) not in self._requests:
            # The sample is kept with its tokens, so that its id stays its own.
            self._requests[id(doc)] = doc, self._tokenize(doc)
        found: Sequence[Request] = self._requests[id(doc)][1]
        return found

    def _tokenize(self, doc: Doc) -> list[Request]:
        if doc.specific and N_CONTEXT_TOKENS in doc.specific:
            contexts, continuations = self._whole_text(doc, doc.specific[N_CONTEXT_TOKENS])
        else:
            prompt = self.prompt_manager.prepare_prompt(doc)
            contexts, continuations = self.tok_encode_pair(prompt, doc.choices, pairwise=True)
        for continuation in continuations:
            if not 0 < len(continuation) < self.max_length:
                raise TaskError(
                    f"Sample {doc.id} of lighteval task '{doc.task_name}' has a choice of {len(continuation)} tokens; "
                    f"the model takes 1 to {self.max_length - 1} after a context."
                )
        return [
            Request(tuple(context or self._empty_context()), tuple(continuation))
            for context, continuation in zip(contexts, continuations, strict=True)
        ]

    def _whole_text(self, doc: Doc, n_context: int) -> tuple[list[list[int]], list[list[int]]]:
        """Tokenise context and target as one text, after the special tokens the tokenizer puts in front."""
        plain = self.tok_encode(doc.query, add_special_tokens=False)
        opened = self.tok_encode(doc.query, add_special_tokens=True)
        front = opened[: next(i for i in range(len(opened)) if opened[i : i + len(plain)] == plain)]
        ids = self.tok_encode(doc.query + doc.choices[0], add_special_tokens=False)
        return [front + ids[:n_context]], [ids[n_context:]]

    def _empty_context(self) -> list[int]:
        """What stands before a text when nothing does (lighteval crashes there)."""
        token = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        if token is None:
            raise TaskError("A sample has an empty question and the tokenizer no token to begin with.")
        return [token]

    def _generate_padded(self, batch: Any, **options: Any) -> list[ModelResponse]:
        """Generate, and mark the answers of a model whose logits are not finite: argmax hides that."""
        if self._chosen is not None:
            kind = "cpu" if batch.input_ids.device.type == "cpu" else "cuda"
            n_rows, length = batch.input_ids.shape
            self._costs.append(n_rows * length + options["max_new_tokens"] * max(n_rows, _STEP_TOKENS[kind]))
            if len(self._costs) - 1 not in self._chosen:
                return [_NOT_RUN] * n_rows
        finite: list[torch.Tensor] = []

        def watch(_module: Any, _args: Any, output: Any) -> None:
            finite.append(torch.isfinite(output.logits[:, -1]).all(-1))

        hook = self.model.register_forward_hook(watch)
        try:
            responses: list[ModelResponse] = super()._generate_padded(batch=batch, **options)
        finally:
            hook.remove()
        sound = torch.stack(finite).all(0).reshape(len(responses), -1).all(-1).tolist()
        for response, is_sound in zip(responses, sound, strict=True):
            if not is_sound:
                response.logprobs = [float("nan")]
        return responses


def _wants_greedy(doc: Doc) -> bool:
    """Only lighteval's own metrics look at whether a choice is what greedy decoding writes."""
    return not (doc.specific and doc.specific.get("prepared"))


def _plain(response: ModelResponse) -> dict[str, Any]:
    """The fields of a response; lighteval leaves the tokens it wrote in tensors."""
    tokens = [torch.as_tensor(written).tolist() for written in response.output_tokens]
    return {**vars(response), "output_tokens": tokens}
