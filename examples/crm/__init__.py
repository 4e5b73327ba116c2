"""The modules of the CRM demo; `crm_dashboard.py`, one folder up, starts it."""
