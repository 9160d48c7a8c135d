terraform {
  required_version = ">= 1.9" # a validation looks at other variables, too

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
  zone    = local.zone
}

locals {
  zone   = coalesce(var.zone, "${var.region}-b")
  labels = { app = "kaggleops", stack = var.name }

  # Google's addresses from which Identity-Aware Proxy connects to machines:
  # https://cloud.google.com/iap/docs/using-tcp-forwarding
  iap_range = "35.235.240.0/20"
  port      = 5000
}

resource "google_project_service" "api" {
  for_each = toset(concat(
    # Resource Manager: a right in the project is given through it.
    ["storage.googleapis.com", "iam.googleapis.com", "cloudresourcemanager.googleapis.com"],
    var.server ? ["compute.googleapis.com", "iap.googleapis.com", "oslogin.googleapis.com", "logging.googleapis.com"] : [],
    var.index_secret == "" ? [] : ["secretmanager.googleapis.com"],
  ))

  service            = each.value
  disable_on_destroy = false # others in the project may use it
}
