"""Fine-tune a full-size URGT on one GPU of 16 GB: the encoder and frame attention stay as they are.

    urgt train finetune_16gb --workdir runs/mine --init urgt.safetensors \\
        --data.source folder --data.path DATA

367.7 of 975.2 M parameters are trained: global attention and the DPT heads. From VGGT-1B, whose
encoder has never seen coarse maps, train their embeddings too: `--init vggt.safetensors
--optim.frozen '^encoder/(?!depth|normal/)' ^within_patch/`. docs/pods.md has the memory of this and
of other recipes. It has not been run yet.
"""

from urgt_jax.config_files import load_config, with_changes

config = with_changes(
    load_config("u4k"),
    {
        "model.dtype": "bfloat16-all",
        "model.remat": "blocks",
        "data.batch": 1,
        "optim.frozen": ("^encoder/", "^within_patch/"),
        "optim.learning_rate": 1e-5,
        "optim.steps": 5000,
    },
)
