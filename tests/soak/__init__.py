"""Kill -9 again and again, at chosen moments of trainings and studies, and look whether anything is lost."""
