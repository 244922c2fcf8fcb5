// The reference verifier of W3C credentials, driven by lines of JSON: used by test_credential_judge.py.
import { createInterface } from "node:readline";
import { DataIntegrityProof } from "@digitalbazaar/data-integrity";
import * as multikey from "@digitalbazaar/ed25519-multikey";
import * as jcs from "@digitalbazaar/eddsa-jcs-2022-cryptosuite";
import * as vc from "@digitalbazaar/vc";
import * as statusLists from "@digitalbazaar/vc-bitstring-status-list";
import canonicalize from "canonicalize";
import jsonld from "jsonld";
import jsigs from "jsonld-signatures";
import { contexts, didDocument, documentLoader, lists, reason, statusAt, verify, verifySuite } from "./credentials.mjs";

async function verifyPresentation(presentation, { now, challenge, domain }) {
  const controller = didDocument(presentation.holder); // whom it names has to have signed it
  const presentationPurpose = new jsigs.purposes.AuthenticationProofPurpose({ controller, domain, challenge });
  return reason(
    await vc.verify({
      presentation,
      presentationPurpose,
      suite: verifySuite(),
      documentLoader,
      checkStatus: statusAt(now, true),
      now,
    }),
  );
}

async function signer(did, publicKeyMultibase, secretKeyMultibase) {
  const id = `${did}#${publicKeyMultibase}`;
  const key = await multikey.from({ id, controller: did, type: "Multikey", publicKeyMultibase, secretKeyMultibase });
  return new DataIntegrityProof({ signer: key.signer(), cryptosuite: jcs.createSignCryptosuite() });
}

const calls = {
  context: async ({ url, document }) => void contexts.set(url, document),
  // For each credential null if it verifies, else why it does not.
  verify: async ({ credentials, now, matching }) => {
    const answers = [];
    for (const one of credentials) answers.push(await verify(JSON.parse(one), new Date(now), matching));
    return answers;
  },
  lists: async ({ documents }) => {
    for (const one of documents.map((text) => JSON.parse(text))) lists.set(one.credentialSubject.id, one);
  },
  // A list of its own making, in which these entries are revoked.
  encodeList: async ({ length, revoked }) => {
    const list = await statusLists.createList({ length });
    for (const index of revoked) list.setStatus(index, true);
    return list.encode();
  },
  // The same for presentations, each of which has to be for this challenge and domain.
  verifyPresentations: async ({ presentations, now, ...expected }) => {
    const answers = [];
    for (const one of presentations) {
      try {
        answers.push(await verifyPresentation(JSON.parse(one), { now: new Date(now), ...expected }));
      } catch (error) {
        answers.push(String(error));
      }
    }
    return answers;
  },
  // N-Quads of a credential. Safe mode: an error where any member has no meaning in its contexts.
  quads: async ({ credential }) =>
    jsonld.toRDF(JSON.parse(credential), { documentLoader, safe: true, format: "application/n-quads" }),
  issue: async ({ credential, did, publicKeyMultibase, secretKeyMultibase, created }) => {
    const suite = await signer(did, publicKeyMultibase, secretKeyMultibase);
    if (created !== null) suite.proof = { created }; // else now, in whole seconds
    return canonicalize(await vc.issue({ credential, suite, documentLoader }));
  },
  present: async ({ presentation, did, publicKeyMultibase, secretKeyMultibase, challenge, domain, ...times }) => {
    const suite = await signer(did, publicKeyMultibase, secretKeyMultibase);
    suite.proof = { created: times.created, expires: times.expires };
    return canonicalize(await vc.signPresentation({ presentation, suite, challenge, domain, documentLoader }));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  let said;
  try {
    said = { answer: (await calls[ask.call](ask)) ?? null };
  } catch (error) {
    said = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
