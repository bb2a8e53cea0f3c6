"""The attention layer, its masks, and kernels that compute it in several ways."""
