"""Callbacks that measure and couple within the training loops of others: Lightning's, and Hugging Face's Trainer."""
