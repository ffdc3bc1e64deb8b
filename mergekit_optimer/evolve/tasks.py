"""lm-eval tasks by the names that lighteval 0.13 has for them. Knows no recipe.

Same data is not same prompt: lighteval writes its prompts its own way, and asks some of these for generated text where
lm-eval compares likelihoods, so scores of the two are not to be compared.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counterpart:
    """A lighteval task and those of its metrics that an lm-eval metric can become."""

    task: str
    metrics: dict[str, str]


_ACC = {"acc": "acc", "acc_norm": "acc"}
# lm-eval compares the choices' likelihoods here; lighteval has the answer written and compares its text.
_WRITTEN = {"acc": "em", "acc_norm": "em", "exact_match": "em"}
_EXACT = {"exact_match": "em", "em": "em", "acc": "em"}

_TASKS = {
    "anli_r1": ("anli:r1", _ACC),
    "anli_r2": ("anli:r2", _ACC),
    "anli_r3": ("anli:r3", _ACC),
    "arc_challenge": ("arc:challenge", _ACC),
    "arc_easy": ("arc:easy", _ACC),
    "asdiv": ("asdiv", _EXACT),
    "boolq": ("super_glue:boolq", _ACC),
    "cb": ("super_glue:cb", _ACC),
    "cola": ("glue:cola", {"mcc": "mcc"}),
    "commonsense_qa": ("commonsenseqa", _WRITTEN),
    "copa": ("super_glue:copa", _ACC),
    "coqa": ("coqa", {"em": "em"}),
    "drop": ("drop", {"em": "em"}),
    "ethics_cm": ("ethics:commonsense", _ACC),
    "ethics_deontology": ("ethics:deontology", _ACC),
    "ethics_justice": ("ethics:justice", _ACC),
    "ethics_utilitarianism": ("ethics:utilitarianism", _ACC),
    "ethics_virtue": ("ethics:virtue", _ACC),
    "gsm8k": ("gsm8k", {"exact_match": "extractive_match"}),
    "gsm_plus": ("gsm_plus", {"exact_match": "extractive_match"}),
    "hellaswag": ("hellaswag", _WRITTEN),
    "ifeval": (
        "ifeval",
        {
            name: name
            for name in (
                "prompt_level_strict_acc",
                "inst_level_strict_acc",
                "prompt_level_loose_acc",
                "inst_level_loose_acc",
            )
        },
    ),
    "leaderboard_musr_murder_mysteries": ("musr:murder_mysteries", _ACC),
    "leaderboard_musr_object_placements": ("musr:object_placements", _ACC),
    "leaderboard_musr_team_allocation": ("musr:team_allocation", _ACC),
    "logiqa": ("logiqa", _ACC),
    "mathqa": ("mathqa", _ACC),
    "mmlu_pro": ("mmlu_pro", {"exact_match": "extractive_match"}),
    "mnli": ("glue:mnli", _ACC),
    "mrpc": ("glue:mrpc", {"acc": "acc", "f1": "loglikelihood_f1"}),
    "multirc": ("super_glue:multirc", _ACC),
    "openbookqa": ("openbookqa", _WRITTEN),
    "piqa": ("piqa", _WRITTEN),
    "prost": ("prost", _ACC),
    "pubmedqa": ("pubmedqa", _WRITTEN),
    "qnli": ("glue:qnli", _ACC),
    "qqp": ("glue:qqp", {"acc": "acc", "f1": "loglikelihood_f1"}),
    "race": ("race:high", _ACC),
    "rte": ("glue:rte", _ACC),
    "sciq": ("sciq", _ACC),
    "social_iqa": ("siqa", _WRITTEN),
    "squadv2": ("squad_v2", {"exact": "em"}),
    "sst2": ("glue:sst2", _ACC),
    "swag": ("swag", _ACC),
    "toxigen": ("toxigen", _ACC),
    "triviaqa": ("triviaqa", _EXACT),
    "truthfulqa_mc1": ("truthfulqa:mc", {"acc": "truthfulqa_mc1"}),
    "truthfulqa_mc2": ("truthfulqa:mc", {"acc": "truthfulqa_mc2"}),
    "webqs": ("webqs", _EXACT),
    "wic": ("super_glue:wic", _ACC),
    "winogrande": ("winogrande", _ACC),
    "wnli": ("glue:wnli", _ACC),
    "wsc": ("super_glue:wsc", _ACC),
}
_MMLU = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry "
    "college_computer_science college_mathematics college_medicine college_physics computer_security "
    "conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology high_school_statistics "
    "high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence "
    "logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes "
    "moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine "
    "professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions"
)
# Families with a member for each language or subject: lm-eval's beginning, lighteval's, metrics, members.
_FAMILIES = (
    ("mmlu_", "mmlu:", _WRITTEN, _MMLU),
    ("mgsm_direct_", "mgsm:", {"exact_match": "em"}, "bn de en es fr ja ru sw te th zh"),
    ("xcopa_", "xcopa:", _ACC, "et ht id it qu sw ta th tr vi zh"),
    ("xstorycloze_", "xstory_cloze:", _ACC, "ar en es eu hi id my ru sw te zh"),
    ("xwinograd_", "xwinograd:", _ACC, "en fr jp pt ru zh"),
)
COUNTERPARTS = {name: Counterpart(*rest) for name, rest in _TASKS.items()} | {
    ours + member: Counterpart(theirs + member, metrics)
    for ours, theirs, metrics, members in _FAMILIES
    for member in members.split()
}
