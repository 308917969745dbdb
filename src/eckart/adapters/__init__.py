"""LoRA adapters of PEFT on the layers of compressed models. Nothing here imports PEFT before the user does."""
