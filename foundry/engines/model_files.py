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

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = f"adapter_model{WEIGHTS_SUFFIX}"
