"""Names of the files of a model and of an adapter, as transformers and PEFT write them."""

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS_SUFFIX = ".safetensors"
WEIGHTS = f"model{WEIGHTS_SUFFIX}"
# Of weights in several files: which tensor lies in which.
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
# Further templates by name, and where models of several modalities keep theirs.
MORE_TEMPLATES = "additional_chat_templates"
PROCESSOR_TEMPLATE = "chat_template.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
# Everything that decides how a conversation becomes tokens; patterns of paths.
TOKENIZER_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.jinja",
    f"{MORE_TEMPLATES}/*.jinja",
    PROCESSOR_TEMPLATE,
    *PROCESSORS,
)

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = f"adapter_model{WEIGHTS_SUFFIX}"
