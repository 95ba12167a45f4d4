"""``diagnose``: what a config will do on this machine, said before any answer."""

from w2s_chains.doctor.diagnose import diagnose
from w2s_chains.doctor.diagnosis import Diagnosis

__all__ = ["Diagnosis", "diagnose"]
