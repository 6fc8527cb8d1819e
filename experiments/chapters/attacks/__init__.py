"""How strong DeepFool is, beside other attacks."""
