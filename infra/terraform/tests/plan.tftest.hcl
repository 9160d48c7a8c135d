# `terraform test`, with no account and nothing made: the provider is installed, and answers are mocked.
#
#   terraform -chdir=infra/terraform init -backend=false
#   terraform -chdir=infra/terraform test

mock_provider "google" {}

variables {
  project = "a-project"
  bucket  = "a-bucket"
}

run "closed_as_it_comes" {
  command = plan

  assert {
    condition     = length(google_compute_instance.server[0].network_interface[0].access_config) == 0
    error_message = "The machine has an external address."
  }

  assert {
    condition     = google_compute_firewall.iap[0].source_ranges == toset(["35.235.240.0/20"])
    error_message = "Others than IAP reach the machine."
  }

  assert {
    condition     = length(google_compute_firewall.open) == 0 && length(google_compute_router_nat.server) == 0
    error_message = "There is more of the network than was asked for."
  }

  assert {
    condition     = google_storage_bucket.runs[0].public_access_prevention == "enforced"
    error_message = "The bucket can be made public."
  }

  assert {
    condition     = google_storage_bucket_iam_member.runner.condition[0].expression == "!resource.name.startsWith(\"projects/_/buckets/a-bucket/objects/server/\")"
    error_message = "A runner can change what the machine installs."
  }

  assert {
    condition     = google_compute_instance.server[0].metadata["kaggleops-options"] == "--anyone-may-read-and-write"
    error_message = "Who comes through IAP is asked twice."
  }
}

run "open_to_one_address" {
  command = plan

  variables {
    open_to = ["203.0.113.7/32"]
  }

  assert {
    condition     = google_compute_firewall.open[0].source_ranges == toset(["203.0.113.7/32"])
    error_message = "The port is open to others than those named."
  }

  assert {
    condition     = google_compute_instance.server[0].metadata["kaggleops-options"] == "--auth"
    error_message = "An open port asks for no password."
  }
}

run "in_a_network_that_exists" {
  command = plan

  variables {
    network      = "projects/a-project/global/networks/ours"
    subnetwork   = "projects/a-project/regions/us-central1/subnetworks/ours"
    index_secret = "an-index"
  }

  assert {
    condition     = length(google_compute_network.server) == 0 && length(google_compute_subnetwork.server) == 0
    error_message = "A network is made although one is named."
  }

  assert {
    condition     = google_compute_instance.server[0].network_interface[0].subnetwork == var.subnetwork && google_compute_firewall.iap[0].network == var.network
    error_message = "The machine, or the way to it, is in another network."
  }
}

run "an_index_out_of_reach_is_refused" {
  command = plan

  variables {
    index_secret = "an-index"
  }

  expect_failures = [var.index_secret]
}

run "open_to_everybody_is_refused" {
  command = plan

  variables {
    open_to = ["0.0.0.0/0"]
  }

  expect_failures = [var.open_to]
}

run "the_public_is_no_user" {
  command = plan

  variables {
    users = ["allUsers"]
  }

  expect_failures = [var.users]
}

run "without_a_server" {
  command = plan

  variables {
    server = false
  }

  assert {
    condition     = length(google_compute_instance.server) == 0 && length(google_compute_network.server) == 0
    error_message = "There is a machine although none is wanted."
  }

  assert {
    condition     = output.tunnel_command == null
    error_message = "There is a way to a machine that is not there."
  }
}

run "a_bucket_that_exists" {
  command = plan

  variables {
    create_bucket = false
  }

  assert {
    condition     = length(google_storage_bucket.runs) == 0 && google_storage_bucket_iam_member.runner.bucket == "a-bucket"
    error_message = "The bucket is made although it exists."
  }
}
