"""What is measured on matrices and tensors; sees no module, file or figure."""
